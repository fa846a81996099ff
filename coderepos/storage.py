"""A storage for packs in a directory that several machines share, such as one export of NFS.

Django's own storage of files writes in place, so that a process which is killed leaves half a file under its name, and
gives a name that is taken another one. Neither may happen to packs.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from django.core.files.base import File
from django.core.files.storage import Storage
from django.utils._os import safe_join
from django.utils.deconstruct import deconstructible

MARKER: Final = ".coderepos-packs"
"""File that shows that the directory is mounted; the operator makes it once."""

_DRAFT: Final = ".draft-"
_TRIES: Final = 3


class NotMounted(OSError):
    """The shared directory is not there, so nothing is known of what is in it."""


@deconstructible(path="coderepos.storage.DirectoryStorage")
class DirectoryStorage(Storage):
    """Files below one directory: each is there whole under its own name, or not at all.

    :param location: absolute path of the directory, in which there is an empty file :data:`MARKER`. Without that
        nothing is written: what lies below a mount that is gone is no shared directory.
    """

    def __init__(self, location: str | os.PathLike[str]) -> None:
        self.location: Final = Path(location)

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        """Return the name itself: a second file of this name takes the place of the first."""
        return name

    def exists(self, name: str) -> bool:
        """Return whether there is a file or directory of this name."""
        self._require_mounted()
        return self._path(name).exists()

    def size(self, name: str) -> int:
        """Return the size of a file in bytes.

        :raises FileNotFoundError: there is none.
        """
        return self._path(name).stat().st_size

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        """Return the names of directories and files in a directory; none where it does not exist."""
        self._require_mounted()
        try:
            with os.scandir(self._path(path)) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except FileNotFoundError:
            return [], []
        return [name for name, is_one in found if is_one], [name for name, is_one in found if not is_one]

    def delete(self, name: str) -> None:
        """Remove a file, what killed processes left of it, and directories that are empty then."""
        self._require_mounted()
        path = self._path(name)
        _remove([path, *_drafts(path)])
        with suppress(OSError):
            while (path := path.parent) != self.location:
                path.rmdir()

    def _open(self, name: str, mode: str = "rb") -> File[bytes]:
        self._require_mounted()
        return File(open(self._path(name), "rb"), name=name)

    def _save(self, name: str, content: Any) -> str:
        self._require_mounted()
        path = self._path(name)
        draft = path.with_name(f"{path.name}{_DRAFT}{uuid.uuid4().hex}")
        try:
            descriptor = self._create(draft)
            with open(descriptor, "wb") as file:
                for chunk in _chunks(content):
                    file.write(chunk)
                file.flush()
                os.fsync(descriptor)
            draft.replace(path)
            _remove(_drafts(path))
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        for directory in (path.parent, path.parent.parent):
            _sync(directory)
        return name

    def _create(self, draft: Path) -> int:
        for tries_left in reversed(range(_TRIES)):
            draft.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another process has removed the last file of the directory
                return os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if not tries_left:
                break
        raise FileNotFoundError(draft)

    def _path(self, name: str) -> Path:
        return Path(safe_join(self.location, name))

    def _require_mounted(self) -> None:
        if not (self.location / MARKER).is_file():
            raise NotMounted(f"{self.location} has no file {MARKER}: it is not mounted, or was never set up")


def _drafts(path: Path) -> list[Path]:
    """Return what processes left that were killed while they wrote a file."""
    return list(path.parent.glob(f"{path.name}{_DRAFT}*"))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _chunks(content: Any) -> Iterator[bytes]:
    yield from content.chunks()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
