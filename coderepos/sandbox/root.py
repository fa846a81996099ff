"""The directory with all sandboxes of one machine: its owner, marker, permissions and entries."""

from __future__ import annotations

import grp
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from coderepos.exceptions import CodeReposError, SandboxRefused, SandboxRootMissing
from coderepos.sandbox.ancestors import require_safe_ancestors
from coderepos.sandbox.directories import ages_seconds, open_directory, remove_if_empty, set_mode, translate_errors
from coderepos.sandbox.marker import MARKER, MARKER_DRAFT, read_marker, write_marker
from coderepos.sandbox.removal import remove_tree

NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
"""Names of projects, repositories and versions: one path segment, which cannot be a name that is reserved here."""


class SandboxRoot:
    """The directory with all sandboxes of one machine.

    :param path: absolute path; it is created if missing.
    :param group: name of a group that may read, or ``None``.
    """

    def __init__(self, path: Path, group: str | None = None) -> None:
        self.path: Final = path
        self._group: Final = group

    @property
    def directory_mode(self) -> int:
        """Mode of directories that stay writable for their owner; with a group, new entries belong to it too."""
        return 0o2750 if self._group else 0o700

    @property
    def published_mode(self) -> int:
        """Mode of the top directory of a published version."""
        return 0o550 if self._group else 0o500

    def prepare(self, root_id: str, *, may_be_new: bool = True) -> None:
        """Create the root if it is missing, and mark it with ``root_id``; several processes may do so at once.

        :param may_be_new: whether the root may lack a marker. If it was marked before, a directory without a marker is
            what lies below a mount that is gone.
        :raises SandboxRootMissing: the marker is missing.
        :raises SandboxRefused: it is a link or not a directory, belongs to another user or installation, others may
            write to it or to a directory above it, or the group does not exist. Nothing was changed then.
        :raises SandboxFull: there is no space even for the marker.
        """
        with translate_errors(self.path):
            require_safe_ancestors(self.path)
            if may_be_new:
                self._make()
            elif self.read_marker() is None:
                raise SandboxRootMissing
            group_id = self._group_id()
            with self.opened() as base:
                if may_be_new and read_marker(base) is None:
                    write_marker(base, root_id)
                if read_marker(base) != root_id:
                    raise SandboxRefused(
                        "The sandbox root belongs to another installation; the operator has to choose another one."
                    )
                if group_id is not None and os.fstat(base).st_gid != group_id:
                    os.fchown(base, -1, group_id)
                set_mode(base, self.directory_mode)

    def _make(self) -> None:
        for directory in reversed(self.path.parents):
            with suppress(FileExistsError):
                directory.mkdir(mode=0o755)
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700)

    def read_marker(self) -> str | None:
        """Return the id of the installation that the root belongs to, or ``None`` without root or marker.

        :raises SandboxRefused: as :meth:`prepare`.
        """
        with translate_errors(self.path):
            try:
                with self.opened() as base:
                    return read_marker(base)
            except FileNotFoundError:
                return None

    def names(self) -> list[tuple[str, str]]:
        """Return the project and the repository of every sandbox that is on disk, as their directories are named."""
        found = []
        with translate_errors(self.path):
            try:
                with self.opened() as base:
                    for project_key in directory_names(base):
                        with open_directory(project_key, parent=base) as project:
                            found += [(project_key, repository_id) for repository_id in directory_names(project)]
            except FileNotFoundError:
                return found
        return found

    def remove(self) -> None:
        """Remove the marker, and the root itself if it is empty then."""
        with translate_errors(self.path), self.opened() as base:
            os.unlink(MARKER, dir_fd=base)
        with suppress(OSError):
            self.path.rmdir()

    def tidy(self, *, older_than_seconds: float) -> None:
        """Remove empty directories of projects, and incomplete markers, that a killed process left."""
        with translate_errors(self.path), self.opened() as base:
            old = [name for name, age in ages_seconds(base).items() if age > older_than_seconds]
            for name in {*old}.intersection(directory_names(base)):
                remove_if_empty(name, base)
            for name in old:
                if name.startswith(MARKER_DRAFT):
                    remove_tree(name, parent=base)

    @contextmanager
    def scratch_file(self) -> Iterator[tuple[IO[bytes], int]]:
        """Open a file without a name for the length of a ``with`` block.

        :returns: the file to write to, and a descriptor to read all of it from.
        :raises SandboxFull: there is no space.
        """
        name = f"{MARKER_DRAFT}scratch-{uuid.uuid4().hex}"
        with translate_errors(self.path), self.opened() as base:
            writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=base)
            try:
                reader = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=base)
            except BaseException:
                os.close(writer)
                raise
            finally:
                os.unlink(name, dir_fd=base)
        try:
            with open(writer, "wb", buffering=0) as file:
                yield file, reader
        finally:
            os.close(reader)

    def takes(self, size_bytes: int) -> bool:
        """Return whether the file system takes so many bytes more: a quota shows in no figure of it."""
        try:
            with translate_errors(self.path), self.scratch_file() as (file, _):
                rest = memoryview(os.urandom(size_bytes))
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
        except CodeReposError:
            return False
        return True

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Check the root and open it for the length of a ``with`` block.

        :raises SandboxRefused: it is a link or not a directory, belongs to another user, or others may write to it.
        :raises FileNotFoundError: it is not there.
        """
        with open_directory(str(self.path)) as base:
            yield base

    def _group_id(self) -> int | None:
        if self._group is None:
            return None
        try:
            return grp.getgrnam(self._group).gr_gid
        except KeyError as error:
            raise SandboxRefused(
                "There is no group of the name in SANDBOX_GROUP; the operator has to create it, or choose another one."
            ) from error


def directory_names(directory: int) -> list[str]:
    """Return the names of the directories that may belong to projects or sandboxes."""
    return [
        name
        for name in os.listdir(directory)
        if NAME.match(name) and stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode)
    ]
