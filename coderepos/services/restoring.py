"""Restoring a version from the storage for packs: no Git host is asked, and no token opened.

The bytes have to be those whose SHA-256 the database has, before a child sees any of them; then the same confined child
builds the version as from the wire.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Final

from django.db.models import F, Q

from coderepos.conf import conf
from coderepos.exceptions import RemoteProtocolError, StorageUnavailable, StoreDamaged, UnsafeRepository
from coderepos.git.limits import Limits
from coderepos.git.rebuild import RebuildRequest, rebuild
from coderepos.git.results import CloneReport, Progress
from coderepos.models import Job, JobKind, LeaseLost, PackState, StoredPack, alias
from coderepos.models.disk import owned
from coderepos.models.locking import row_transaction
from coderepos.sandbox.root import SandboxRoot
from coderepos.services.leases import Lease
from coderepos.services.manifest import MOST_BYTES, Manifest, manifest_name, pack_name
from coderepos.services.pack_storage import PackStorage, pack_storage

_DAMAGED: Final = (RemoteProtocolError, UnsafeRepository)
"""What the build child says of a pack that was rotten before it was stored."""

logger = logging.getLogger(__name__)


def restore(
    lease: Lease, limits: Limits, *, root: SandboxRoot, incoming: Path, on_progress: Callable[[Progress], None]
) -> CloneReport:
    """Build the stored version of a repository in ``incoming``.

    :param on_progress: called at least once a second. What it raises ends the work and goes through.
    :raises StoreDamaged: the storage has other bytes than were stored, or nothing.
    :raises StorageUnavailable: the storage fails.
    :raises GitError: the version can't be built here now.
    """
    repository = lease.job.repository
    stored = lease.persist(
        lambda: StoredPack.objects.filter(Q(pk=repository.stored_pack), state=PackState.STORED).first()
    )
    if stored is None:
        raise StoreDamaged("The storage for packs does not have this repository; it is cloned again.")
    storage = pack_storage()
    if storage is None:
        raise StorageUnavailable("There is no storage for packs on this worker.")
    manifest = _manifest(storage, stored, limits, on_progress)
    with root.scratch_file() as (scratch, pack_fd):
        _pull(storage, stored, scratch, on_progress)
        request = RebuildRequest(
            pack_fd=pack_fd,
            outcome=manifest.outcome,
            limits=limits,
            min_level=conf.SANDBOX_MIN_LEVEL,
            group_readable=bool(conf.SANDBOX_GROUP),
        )
        try:
            report = rebuild(request, incoming=incoming, on_progress=on_progress)
        except _DAMAGED as error:
            raise StoreDamaged from error
    if report.build.commit_id != repository.commit_id:
        raise StoreDamaged
    return report


def clone_instead(lease: Lease) -> None:
    """Make a restore whose bytes are damaged a clone, without counting the attempt, and have those bytes removed."""
    job = lease.job
    stored_pack = job.repository.stored_pack

    def change() -> None:
        with row_transaction(alias()):
            if not owned(job).filter(kind=JobKind.RESTORE).update(kind=JobKind.CLONE, attempt=F("attempt") - 1):
                if not Job.objects.filter(pk=job.pk, lease_token=job.lease_token, kind=JobKind.CLONE).exists():
                    raise LeaseLost
                return
            StoredPack.objects.leave(Q(pk=stored_pack))
            job.repository.lose_stored_pack(stored_pack=stored_pack)

    lease.persist(change)
    job.kind, job.attempt = JobKind.CLONE, job.attempt - 1
    logger.error("repository %s: what is stored of it is damaged; it is cloned again", job.repository_id)


def _manifest(
    storage: PackStorage, stored: StoredPack, limits: Limits, on_progress: Callable[[Progress], None]
) -> Manifest:
    content = storage.read(
        manifest_name(stored),
        size_bytes=MOST_BYTES,
        sha256=stored.manifest_sha256,
        on_wait=lambda: on_progress(Progress(phase="connecting")),
    )
    try:
        # A pack that is too large by now is told as such by the build child.
        wire_bytes = max(limits.wire_bytes, stored.pack_bytes)
        return Manifest.from_bytes(content, limits=replace(limits, wire_bytes=wire_bytes))
    except (ValueError, KeyError) as error:
        raise StoreDamaged from error


def _pull(
    storage: PackStorage, stored: StoredPack, scratch: IO[bytes], on_progress: Callable[[Progress], None]
) -> None:
    storage.copy(
        pack_name(stored),
        scratch,
        size_bytes=stored.pack_bytes,
        sha256=stored.pack_sha256,
        on_wait=lambda copied_bytes: on_progress(Progress(phase="receiving", received_bytes=copied_bytes)),
    )
