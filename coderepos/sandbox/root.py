"""The folder that holds all sandboxes of one machine: whose it is, who may read it, what is in it."""

from __future__ import annotations

import grp
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from coderepos.exceptions import SandboxRefused, SandboxRootMissing
from coderepos.sandbox.ancestors import require_safe_way
from coderepos.sandbox.directories import ages_seconds, opened_folder, remove_if_empty, set_mode, translated
from coderepos.sandbox.marker import MARKER, MARKER_DRAFT, read_marker, write_marker
from coderepos.sandbox.removal import remove_tree

NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
"""Names of projects, repositories and versions: each a path segment of its own, and none of ours."""


class SandboxRoot:
    """The folder that holds all sandboxes of one machine.

    :param path: absolute path; it is created where it is missing.
    :param group: name of a group that may read, or ``None``.
    """

    def __init__(self, path: Path, group: str | None = None) -> None:
        self.path: Final = path
        self._group: Final = group

    @property
    def folder_mode(self) -> int:
        """Mode of folders that stay writable by their owner; with a group, what is made below belongs to it too."""
        return 0o2750 if self._group else 0o700

    @property
    def published_mode(self) -> int:
        """Mode of the top folder of a published version."""
        return 0o550 if self._group else 0o500

    def prepare(self, root_id: str, *, may_be_new: bool = True) -> None:
        """Create the root where it is missing, and mark it as belonging to ``root_id``; safe in many processes at once.

        :param may_be_new: ``False`` where it was marked before: without its marker it is not the one, but what lies
            below a mount that is gone.
        :raises SandboxRootMissing: it has to have a marker and has none.
        :raises SandboxRefused: it is a link or no folder, is foreign, is writable by others, the group does not exist,
            another installation marked it, or others may change a folder above it. Nothing was changed then.
        :raises SandboxFull: there is no room even for the marker.
        """
        with translated(self.path):
            require_safe_way(self.path)
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
                set_mode(base, self.folder_mode)

    def _make(self) -> None:
        for folder in reversed(self.path.parents):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o755)
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700)

    def read_marker(self) -> str | None:
        """Return the id of the installation that the root belongs to, ``None`` where there is no root or no marker.

        :raises SandboxRefused: as :meth:`prepare`.
        """
        with translated(self.path):
            try:
                with self.opened() as base:
                    return read_marker(base)
            except FileNotFoundError:
                return None

    def names(self) -> list[tuple[str, str]]:
        """Return the project and the repository of every sandbox that is on disk, as their directories are named."""
        found = []
        with translated(self.path):
            try:
                with self.opened() as base:
                    for project_key in names_of_folders(base):
                        with opened_folder(project_key, parent=base) as project:
                            found += [(project_key, repository_id) for repository_id in names_of_folders(project)]
            except FileNotFoundError:
                return found
        return found

    def remove(self) -> None:
        """Remove the marker, and the root itself where nothing else is in it."""
        with translated(self.path), self.opened() as base:
            os.unlink(MARKER, dir_fd=base)
        with suppress(OSError):
            self.path.rmdir()

    def tidy(self, *, older_than_seconds: float) -> None:
        """Remove folders of projects without a sandbox, and unfinished markers, that a killed process left."""
        with translated(self.path), self.opened() as base:
            old = [name for name, age in ages_seconds(base).items() if age > older_than_seconds]
            for name in {*old}.intersection(names_of_folders(base)):
                remove_if_empty(name, base)
            for name in old:
                if name.startswith(MARKER_DRAFT):
                    remove_tree(name, parent=base)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open the root for the length of a ``with`` block, checked.

        :raises SandboxRefused: it is a link or no folder, is foreign, or is writable by others.
        :raises FileNotFoundError: it is not there.
        """
        with opened_folder(str(self.path)) as base:
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


def names_of_folders(folder: int) -> list[str]:
    """Return the names of folders that may be of projects or sandboxes."""
    return [
        name for name in os.listdir(folder) if NAME.match(name) and stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode)
    ]
