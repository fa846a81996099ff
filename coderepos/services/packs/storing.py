"""Stores published versions, and removes what nobody needs any more: one round of a machine at a time.

Never in the transaction of a publication, and in a thread of its own: storage may hang or refuse for hours, and clones
go on. What is stored, and what is on its way, the database knows before the storage does.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import IO, Final

from django.db.models import Q

from coderepos import engine
from coderepos.exceptions import CodeReposError, SandboxUnavailable, StorageUnavailable
from coderepos.git.published import opened_pack, outcome_of
from coderepos.models import CloneStatus, CodeRepository, LeaseLost, Node, PackState, StoredPack
from coderepos.models.disk import disk_names
from coderepos.services.packs.manifest import Manifest, index_name, manifest_name, names, pack_name
from coderepos.services.packs.storage import PackStorage, pack_storage

BATCH: Final = 100
ROUND_SECONDS: Final = 60
"""After which a round begins nothing more; the next one goes on."""

RENEW_SECONDS: Final = 15
_CHUNK_BYTES: Final = 1 << 20
RELEASE_SECONDS: Final = 900
"""Time between two looks for packs that nobody needs: those of rows that were deleted past Django, by raw SQL."""

logger = logging.getLogger(__name__)


def run_storage_round(node: Node) -> str:
    """Store what this machine published, remove what leaves, and return what was done, in one line."""
    storage = pack_storage()
    if storage is None:
        return "no PACK_STORAGE"
    ends_at = time.monotonic() + ROUND_SECONDS
    machine = disk_names(node)
    StoredPack.objects.intend(machine, at_most=BATCH)
    if node.begin_release(every_seconds=RELEASE_SECONDS):
        StoredPack.objects.leave_unneeded()
    stored = _each(lambda: StoredPack.objects.take(PackState.UPLOADING, machine), storage, store, ends_at)
    removed = _each(lambda: StoredPack.objects.take(PackState.LEAVING), storage, remove, ends_at)
    return f"{stored} stored, {removed} removed"


def _each(
    take: Callable[[], StoredPack | None],
    storage: PackStorage,
    handle: Callable[[PackStorage, StoredPack], bool],
    ends_at: float,
) -> int:
    """Handle what is due, and return how many; a storage that fails is asked no more in this round."""
    done = 0
    while time.monotonic() < ends_at and (stored := take()):
        try:
            done += handle(storage, stored)
        except LeaseLost:
            logger.warning("stored pack %s: another process has taken it", stored.pk)
        except StorageUnavailable as error:
            stored.put_off(error.code)
            break
        except CodeReposError as error:
            stored.put_off(error.code)
        except Exception:
            logger.exception("stored pack %s: unexpected failure", stored.pk)
            stored.put_off("internal_error")
    return done


def store(storage: PackStorage, stored: StoredPack) -> bool:
    """Store one version, and return whether its repository has a use for it.

    :raises StorageUnavailable: the storage fails; the same names are used again.
    :raises CodeReposError: the version can't be read.
    :raises LeaseLost: another process has taken it.
    """
    repository = CodeRepository.objects.filter(pk=stored.repository_id, clone_status=CloneStatus.COMPLETED).first()
    if repository is None or repository.version != stored.version:
        StoredPack.objects.leave(Q(pk=stored.pk))
        return False
    _put_all(storage, stored, repository)
    if not stored.finish():
        return False
    logger.info("repository %s: version %s is stored, %d bytes", repository.pk, stored.version, stored.pack_bytes)
    return True


def _put_all(storage: PackStorage, stored: StoredPack, repository: CodeRepository) -> None:
    sandbox = engine.sandbox_of(repository)
    try:
        with sandbox.opened_version(stored.version) as version, opened_pack(version) as (pack, index):
            pack_bytes = _size_bytes(pack)
            values: dict[str, object] = {
                "pack_sha256": _sha256(pack),
                "pack_bytes": pack_bytes,
                "index_sha256": _sha256(index),
                "index_bytes": _size_bytes(index),
            }
            outcome = outcome_of(version, pack_bytes=pack_bytes, limits=replace(engine.limits(), wire_bytes=pack_bytes))
            _put(storage, stored, pack, index, Manifest(commit_id=repository.commit_id, outcome=outcome), values)
    except FileNotFoundError as error:
        raise SandboxUnavailable(errno="ENOENT") from error


def _put(
    storage: PackStorage,
    stored: StoredPack,
    pack: IO[bytes],
    index: IO[bytes],
    manifest: Manifest,
    values: dict[str, object],
) -> None:
    before = names(stored)
    for name, value in values.items():
        setattr(stored, name, value)
    content = manifest.to_bytes(stored)
    stored.manifest_sha256 = hashlib.sha256(content).hexdigest()
    if before not in ((), names(stored)):
        # The disk gives other bytes than the last time. What was written then has to be known as long as it is there.
        StoredPack.objects.leave(Q(pk=stored.pk, tries=stored.tries))
        raise LeaseLost
    # Names first: what is written is known to the database, whoever dies in between.
    if not stored.record_digests(**values, manifest_sha256=stored.manifest_sha256):
        raise LeaseLost
    renew = _Renewal(stored)
    storage.put(pack_name(stored), _copy_of(pack), size_bytes=stored.pack_bytes, on_wait=renew)
    storage.put(index_name(stored), _copy_of(index), size_bytes=stored.index_bytes, on_wait=renew)
    storage.put(manifest_name(stored), BytesIO(content), size_bytes=len(content), on_wait=renew)
    if not stored.renew():
        # Another process may have stored it under these names; one that removed it looked before the last byte came.
        is_unwanted = not StoredPack.objects.present().filter(pk=stored.pk).exists()
        for name in names(stored) if is_unwanted else ():
            with suppress(StorageUnavailable):
                storage.delete(name)
        raise LeaseLost


def remove(storage: PackStorage, stored: StoredPack) -> bool:
    """Remove the bytes of a row that leaves, and the row itself once no upload of it can be on its way.

    With the last row of a repository that was deleted goes all that is below its prefix.

    :returns: whether the row is gone.
    :raises StorageUnavailable: the storage fails; it is tried again.
    """
    prefix = str(stored.repository_id)
    is_deleted = not CodeRepository.objects.filter(pk=stored.repository_id).exists()
    doomed = storage.names(prefix) if is_deleted else names(stored)
    for name in doomed:
        storage.delete(name)
    if not stored.has_settled():
        stored.settle()
        return False
    left = storage.names(prefix) if is_deleted else [name for name in names(stored) if storage.exists(name)]
    if left:
        stored.put_off("not_removed")
        return False
    return bool(StoredPack.objects.filter(pk=stored.pk, tries=stored.tries).delete()[0])


class _Renewal:
    """Keeps a row ours while its bytes move.

    :raises LeaseLost: it is not any more.
    """

    def __init__(self, stored: StoredPack) -> None:
        self._stored: Final = stored
        self._renewed_at = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._renewed_at > RENEW_SECONDS:
            self._renewed_at = time.monotonic()
            if not self._stored.renew():
                raise LeaseLost


def _copy_of(file: IO[bytes]) -> IO[bytes]:
    """Return a file that outlives the other one where the storage hangs; who stores it closes it."""
    copied = os.fdopen(os.dup(file.fileno()), "rb")
    copied.seek(0)
    return copied


def _sha256(file: IO[bytes]) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _size_bytes(file: IO[bytes]) -> int:
    return file.seek(0, 2)
