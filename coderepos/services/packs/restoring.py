"""Restoring a version from the storage for packs: no Git host is asked, and no token opened.

The bytes have to be those whose SHA-256 the database has, before a child sees any of them. Then the same confined child
writes the version by the stored index; where that is missing or does not fit, it builds all anew, as from the wire.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from django.db.models import F, Q

from coderepos.conf import conf
from coderepos.exceptions import (
    CloneTimeout,
    CodeReposError,
    IsolationUnavailable,
    RemoteProtocolError,
    SandboxFull,
    SandboxUnavailable,
    StorageUnavailable,
    StoreDamaged,
    UnsafeRepository,
)
from coderepos.git.limits import Limits
from coderepos.git.rebuild import RebuildRequest, rebuild
from coderepos.git.results import CloneReport, Progress
from coderepos.models import Job, JobKind, LeaseLost, PackState, StoredPack, alias
from coderepos.models.disk import owned
from coderepos.models.locking import row_transaction
from coderepos.sandbox.root import SandboxRoot
from coderepos.services.leases import Lease
from coderepos.services.packs.manifest import MOST_BYTES, Manifest, index_name, manifest_name, pack_name
from coderepos.services.packs.storage import PackStorage, pack_storage, write_whole

_DAMAGED: Final = (RemoteProtocolError, UnsafeRepository)
"""What the build child says of a pack that was rotten before it was stored."""

_NOT_OF_THE_INDEX: Final = (CloneTimeout, IsolationUnavailable, SandboxFull, SandboxUnavailable)
"""What ends a build by whatever way."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Destination:
    """Where a version is built."""

    root: SandboxRoot
    incoming: Path
    """Absolute path of an empty, writable directory."""

    empty: Callable[[], object]
    """Makes that directory anew, after a build that failed."""


def restore(
    lease: Lease, limits: Limits, destination: Destination, *, on_progress: Callable[[Progress], None]
) -> CloneReport:
    """Build the stored version of a repository.

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
    work = _Restore(storage, stored, limits, on_progress)
    report = work.run(destination)
    if report.build.commit_id != repository.commit_id:
        raise StoreDamaged
    if work.is_index_damaged:
        repository.stored_pack = None  # what is published from here is stored anew, with a sound index
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


class _Restore:
    """Pulls one version and has it built."""

    def __init__(
        self, storage: PackStorage, stored: StoredPack, limits: Limits, on_progress: Callable[[Progress], None]
    ) -> None:
        self._storage: Final = storage
        self._stored: Final = stored
        self._limits: Final = limits
        self._on_progress: Final = on_progress
        self.is_index_damaged = False

    def run(self, destination: Destination) -> CloneReport:
        manifest = self._manifest()
        with destination.root.scratch_file() as (scratch, pack_fd):
            self._pull_pack(scratch)
            request = RebuildRequest(
                pack_fd=pack_fd,
                outcome=manifest.outcome,
                limits=self._limits,
                min_level=conf.SANDBOX_MIN_LEVEL,
                group_readable=bool(conf.SANDBOX_GROUP),
            )
            try:
                return self._by_index(request, scratch, destination) or self._whole(request, destination)
            except _DAMAGED as error:
                raise StoreDamaged from error

    def _by_index(self, request: RebuildRequest, scratch: IO[bytes], destination: Destination) -> CloneReport | None:
        """Return the report of a build by the stored index; ``None`` where there has to be another one without it."""
        stored = self._stored
        if stored.pack_bytes > self._limits.wire_bytes or (index := self._index()) is None:
            return None
        try:
            write_whole(scratch, index)
            return self._whole(replace(request, index_bytes=len(index)), destination)
        except _NOT_OF_THE_INDEX:
            raise
        except CodeReposError as error:
            logger.error(
                "repository %s: its stored index does not serve (%s); all is built anew",
                stored.repository_id,
                error.code,
            )
        self.is_index_damaged = True
        destination.empty()
        scratch.truncate(stored.pack_bytes)
        os.lseek(request.pack_fd, 0, os.SEEK_SET)
        return None

    def _whole(self, request: RebuildRequest, destination: Destination) -> CloneReport:
        return rebuild(request, incoming=destination.incoming, on_progress=self._on_progress)

    def _manifest(self) -> Manifest:
        content = self._storage.read(
            manifest_name(self._stored),
            size_bytes=MOST_BYTES,
            sha256=self._stored.manifest_sha256,
            on_wait=lambda: self._on_progress(Progress(phase="connecting")),
        )
        try:
            # A pack that is too large by now is told as such by the build child.
            wire_bytes = max(self._limits.wire_bytes, self._stored.pack_bytes)
            return Manifest.from_bytes(content, limits=replace(self._limits, wire_bytes=wire_bytes))
        except (ValueError, KeyError) as error:
            raise StoreDamaged from error

    def _pull_pack(self, scratch: IO[bytes]) -> None:
        self._storage.copy(
            pack_name(self._stored),
            scratch,
            size_bytes=self._stored.pack_bytes,
            sha256=self._stored.pack_sha256,
            on_wait=lambda copied_bytes: self._on_progress(Progress(phase="receiving", received_bytes=copied_bytes)),
        )

    def _index(self) -> bytes | None:
        """Return the stored index, ``None`` where the storage does not give it."""
        stored = self._stored
        progress = Progress(phase="receiving", received_bytes=stored.pack_bytes)
        try:
            # Into memory: a call that hangs and is given up must not write to what a build reads by then.
            return self._storage.read(
                index_name(stored),
                size_bytes=stored.index_bytes,
                sha256=stored.index_sha256,
                on_wait=lambda: self._on_progress(progress),
            )
        except (StoreDamaged, StorageUnavailable) as error:
            logger.error("repository %s: it is restored without index: %s", stored.repository_id, error.code)
            self.is_index_damaged = isinstance(error, StoreDamaged)
            return None
