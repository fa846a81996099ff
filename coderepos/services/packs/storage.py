"""The storage for packs, each call of which is bounded in time: it may refuse, hang or lie.

What it gives back is believed only where its SHA-256 is that of the database. A call that hangs is left behind in its
thread; with :data:`MOST_HANGING` of them this process asks nothing more until one of them ends.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import IO, Any, Final, TypeVar

from django.core.files.base import File
from django.core.files.storage import Storage, storages

from coderepos.conf import ConfigurationError, conf
from coderepos.crypto.redaction import safe_remote_text
from coderepos.disk_errors import disk_error
from coderepos.exceptions import CodeReposError, StorageUnavailable, StoreDamaged

CALL_SECONDS: Final = 20.0
"""How long a call may take that moves next to nothing."""

SLOWEST_BYTES_PER_SECOND: Final = 10**6
"""A call that moves bytes may take a second more for each so many."""

MOST_HANGING: Final = 4
WAIT_SECONDS: Final = 0.5
_CHUNK_BYTES: Final = 1 << 20

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_hanging: Final[list[threading.Thread]] = []


class PackStorage:
    """The storage that ``PACK_STORAGE`` names."""

    def __init__(self, storage: Storage) -> None:
        self._storage: Final = storage

    def put(self, name: str, content: IO[bytes], *, size_bytes: int, on_wait: Callable[[], None]) -> None:
        """Store the bytes of a file under a name that was never used for other bytes.

        :param content: is closed by the call, whenever that ends.
        :param on_wait: called twice a second; what it raises goes through.
        :raises StorageUnavailable: it failed, or took too long.
        """

        def save() -> None:
            with content:
                got = self._storage.save(name, File(content, name=name))
            if got != name:
                self._storage.delete(got)
                raise ConfigurationError("The storage renames files; it must overwrite them, as with file_overwrite.")
            if (found_bytes := self._storage.size(name)) != size_bytes:
                raise OSError(f"{found_bytes} of {size_bytes} bytes arrived")

        try:
            _require_answers()
        except StorageUnavailable:
            content.close()
            raise
        self._call(save, size_bytes, on_wait)

    def copy(
        self, name: str, target: IO[bytes], *, size_bytes: int, sha256: str, on_wait: Callable[[int], None]
    ) -> None:
        """Copy a stored file to ``target``, and check that it is what was stored.

        :param on_wait: called twice a second with the number of bytes so far; what it raises goes through.
        :raises StoreDamaged: it is missing, or holds other bytes.
        :raises StorageUnavailable: it can't be read, or that took too long.
        :raises CodeReposError: the disk of ``target`` is full or fails.
        """
        copied_bytes = 0

        def read() -> str | None:
            nonlocal copied_bytes
            digest = hashlib.sha256()
            try:
                stored = self._storage.open(name, "rb")
            except FileNotFoundError:
                return None
            with stored:
                for chunk in _chunks(stored):
                    copied_bytes += len(chunk)
                    if copied_bytes > size_bytes:
                        return None
                    digest.update(chunk)
                    write_whole(target, chunk)
            target.flush()
            return digest.hexdigest()

        found = self._call(read, size_bytes, lambda: on_wait(copied_bytes))
        if found != sha256:
            logger.error("The storage for packs has other bytes than were stored as %s, or none", name)
            raise StoreDamaged

    def read(self, name: str, *, size_bytes: int, sha256: str, on_wait: Callable[[], None]) -> bytes:
        """Return the bytes of a small file, checked as by :meth:`copy`.

        :param size_bytes: the most that it may have.
        """
        target = BytesIO()
        self.copy(name, target, size_bytes=size_bytes, sha256=sha256, on_wait=lambda _: on_wait())
        return target.getvalue()

    def delete(self, name: str) -> None:
        """Remove a file if it is there.

        :raises StorageUnavailable: it failed, or took too long.
        """
        self._call(lambda: self._storage.delete(name), 0, lambda: None)

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name.

        :raises StorageUnavailable: it is not known.
        """
        return self._call(lambda: self._storage.exists(name), 0, lambda: None)

    def names(self, prefix: str) -> list[str]:
        """Return the names of all files below a prefix.

        :raises StorageUnavailable: they are not known.
        """

        def walk(below: str) -> list[str]:
            directories, files = self._storage.listdir(below)
            deeper = [name for directory in directories for name in walk(f"{below}/{directory}")]
            return [f"{below}/{name}" for name in files] + deeper

        return self._call(lambda: walk(prefix), 0, lambda: None)

    def _call(self, action: Callable[[], Result], moved_bytes: int, on_wait: Callable[[], None]) -> Result:
        """Run an action in a thread, and wait for it no longer than it may take.

        :raises StorageUnavailable: it failed, or took too long; the log says how.
        :raises CodeReposError: the action says so.
        """
        _require_answers()
        results: list[Result] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(action())
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=run, name="coderepos-storage", daemon=True)
        thread.start()
        try:
            _wait(thread, seconds=CALL_SECONDS + moved_bytes / SLOWEST_BYTES_PER_SECOND, on_wait=on_wait)
        finally:
            if thread.is_alive():
                _hanging.append(thread)
        if results:
            return results[0]
        if errors and isinstance(errors[0], CodeReposError):
            raise errors[0]
        if errors:
            text = safe_remote_text(str(errors[0]))
            logger.error("The storage for packs fails: %s: %s", type(errors[0]).__name__, text)
            raise StorageUnavailable from None
        logger.error("The storage for packs does not answer in time")
        raise StorageUnavailable


def pack_storage() -> PackStorage | None:
    """Return the storage that ``PACK_STORAGE`` names; ``None`` where it names none.

    :raises ConfigurationError: there is no such storage.
    """
    return PackStorage(named_storage()) if conf.PACK_STORAGE else None


def named_storage() -> Storage:
    """Return what the alias in ``PACK_STORAGE`` stands for.

    :raises ConfigurationError: there is no such alias, or what it names can't be imported or made.
    """
    try:
        return storages[str(conf.PACK_STORAGE)]
    except Exception as error:
        raise ConfigurationError(f"CODEREPOS['PACK_STORAGE'], {conf.PACK_STORAGE!r}: {error}") from error


def _require_answers() -> None:
    _hanging[:] = [thread for thread in _hanging if thread.is_alive()]
    if len(_hanging) >= MOST_HANGING:
        logger.error("The storage for packs is not asked: %d calls hang", len(_hanging))
        raise StorageUnavailable


def _wait(thread: threading.Thread, *, seconds: float, on_wait: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    while thread.is_alive() and (left := deadline - time.monotonic()) > 0:
        thread.join(min(WAIT_SECONDS, left))
        if thread.is_alive():
            on_wait()


def write_whole(target: IO[bytes], data: bytes) -> None:
    """Write all of it to a file that may take less at once, as one without a buffer does where its disk is nearly full.

    :raises CodeReposError: the disk is full or fails.
    """
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[target.write(rest) :]
    except OSError as error:
        raise disk_error(error) from error


def _chunks(stored: File[Any]) -> Iterator[bytes]:
    while chunk := stored.read(_CHUNK_BYTES):
        yield chunk
