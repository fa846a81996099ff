"""Writes a working tree: exact bytes, by directory descriptors, never through a link.

Regular files get their final mode when they are made; folders when nothing is left to write into them. Symbolic links
are made last. Half of the files are written by a second process: making a file is the kernel's work, and takes it
longer than all else here.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from resource import RLIMIT_NOFILE, getrlimit
from typing import Final

from coderepos.exceptions import InternalError
from coderepos.git.descriptors import write_all
from coderepos.git.pack.delta import LARGE_BYTES
from coderepos.git.pack.delta_tree import DeltaTree
from coderepos.git.pack.pack_file import Pack
from coderepos.git.process.fork import Forked, cores
from coderepos.git.substitutions import Substitutions
from coderepos.git.worktree.symlinks import Links
from coderepos.git.worktree.tree_entries import Entry
from coderepos.git.worktree.tree_totals import Trees

_OPEN_FOLDERS: Final = 900
_OTHER_DESCRIPTORS: Final = 50

_FILE_OVERHEAD_BYTES: Final = 10_000
"""Fixed overhead charged per file: creating one takes as long as inflating so many bytes."""

_SHARED_WORK: Final = 2_500_000
"""Work from which on a second process is worth its start."""

_LINK_BYTES: Final = 16 * 10**6  # held until all links are known
_LINK_TARGET_BYTES: Final = 4_095
_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_LFS_POINTER_BYTES: Final = 1_024

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Place:
    """Where a blob goes."""

    __slots__ = ("entry", "folder")

    def __init__(self, folder: int, entry: Entry) -> None:
        self.folder: Final = folder
        self.entry: Final = entry


class Checkout:
    """Writes one working tree below a folder.

    :param parent: descriptor of the folder in which ``name`` is made.
    :param pack: where the trees' blobs are.
    :param substitutions: counts what is not written as it is.
    :param group_readable: whether the group may read what is written.
    """

    def __init__(
        self,
        parent: int,
        name: bytes,
        trees: Trees,
        pack: Pack,
        substitutions: Substitutions,
        *,
        group_readable: bool,
    ) -> None:
        self._trees: Final = trees
        self._pack: Final = pack
        self._folders: Final = _Folders(parent, name, final_mode=0o550 if group_readable else 0o500)
        self._file_mode: Final = 0o440 if group_readable else 0o400
        self._program_mode: Final = 0o550 if group_readable else 0o500
        self._places: Final[dict[int, list[_Place]]] = {}
        self._links: Final = Links()
        self._link_bytes = 0
        self._found_links: Final[list[tuple[_Place, bytes]]] = []
        self._substitutions: Final = substitutions

    def write(self, delta_tree: DeltaTree) -> None:
        """Write everything.

        :raises OSError: the disk is full, or the folder is not what it was.
        :raises InternalError: something killed the second process.
        """
        try:
            self._make_folders()
            self._write_blobs(delta_tree)
            self._make_links()
            self._folders.finish()
        finally:
            self._folders.close()

    def _write_blobs(self, delta_tree: DeltaTree) -> None:
        shared = self._shared_positions() if cores() > 1 else set()
        if not shared:
            self._write_some(delta_tree, set(self._places))
            return
        with Forked(lambda: self._write_some(delta_tree, shared)) as second:
            self._write_some(delta_tree, self._places.keys() - shared)
            if not second.has_started:
                self._write_some(delta_tree, shared)
            elif not second.succeeded():
                raise self._what_stopped(second, delta_tree, shared)

    def _shared_positions(self) -> set[int]:
        """Return the blobs that a second process is to write, half of the work.

        They stand at the end of the pack, so that neither process makes much that the other one makes too. There are
        none where there is little work, nor where an object takes so much memory that one process shall hold it.
        """
        work = sum(map(self._work, self._places))
        shared: set[int] = set()
        if work < _SHARED_WORK or self._pack.largest_bytes > LARGE_BYTES:
            return shared
        left = work // 2
        for position in sorted(self._places, reverse=True):
            if left > 0 and self._is_plain(position):
                shared.add(position)
                left -= self._work(position)
        return shared if len(shared) < len(self._places) else set()

    @staticmethod
    def _what_stopped(second: Forked, delta_tree: DeltaTree, positions: set[int]) -> Exception:
        """Return the error of the second process; what it wrote is not written over, as it may stand in another's way.

        :raises GitError: what is wrong with an object, which shows again where it is made again.
        """
        if error := second.os_error():
            return error
        for _ in delta_tree.objects(positions):
            continue
        return InternalError()

    def _work(self, position: int) -> int:
        return self._pack.sizes[position] + _FILE_OVERHEAD_BYTES * len(self._places[position])

    def _is_plain(self, position: int) -> bool:
        """Return whether there is nothing to tell of this blob, neither a link nor what may be a pointer."""
        is_link = any(place.entry.is_symlink for place in self._places[position])
        return self._pack.sizes[position] > _LFS_POINTER_BYTES and not is_link

    def _write_some(self, delta_tree: DeltaTree, positions: set[int]) -> None:
        for position, data in delta_tree.objects(positions):
            for place in self._places[position]:
                self._write(place, data)

    def _make_folders(self) -> None:
        todo = [(self._folders.make(-1, b""), self._trees.root)]
        while todo:
            folder, tree = todo.pop()
            for reason, name, count in self._trees.differences.get(tree, ()):
                self._substitutions.add(reason, self._folders.path(folder, name), count)
            for entry in self._trees.entries[tree]:
                if entry.is_directory:
                    todo.append((self._folders.make(folder, entry.name), entry.position))
                elif entry.is_gitlink:
                    self._folders.make(folder, entry.name)
                    self._substitutions.add("gitlink", self._folders.path(folder, entry.name))
                else:
                    self._places.setdefault(entry.position, []).append(_Place(folder, entry))

    def _write(self, place: _Place, data: bytes) -> None:
        if place.entry.is_symlink:
            self._found_link(place, data)
            return
        if len(data) <= _LFS_POINTER_BYTES and data.startswith(_LFS_POINTER):
            self._substitutions.add("lfs_pointer", self._folders.path(place.folder, place.entry.name))
        self._write_file(place, data, self._program_mode if place.entry.is_executable else self._file_mode)

    def _write_file(self, place: _Place, data: bytes, mode: int) -> None:
        descriptor = os.open(place.entry.name, _NEW_FILE, mode, dir_fd=self._folders.descriptor(place.folder))
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)

    def _found_link(self, place: _Place, target: bytes) -> None:
        self._link_bytes += len(target)
        if len(target) > _LINK_TARGET_BYTES or self._link_bytes > _LINK_BYTES:
            self._write_link_text(place, target)
            return
        self._links.add(self._folders.names(place.folder, place.entry.name), target)
        self._found_links.append((place, target))

    def _make_links(self) -> None:
        for place, target in self._found_links:
            if self._links.stays_inside(self._folders.names(place.folder, place.entry.name)):
                os.symlink(target, place.entry.name, dir_fd=self._folders.descriptor(place.folder))
            else:
                self._write_link_text(place, target)

    def _write_link_text(self, place: _Place, target: bytes) -> None:
        """Write a small file that holds the link's text, as ``core.symlinks=false`` does."""
        self._substitutions.add("symlink", self._folders.path(place.folder, place.entry.name))
        self._write_file(place, target, self._file_mode)


class _Folders:
    """The folders of a working tree by number, a few of them open."""

    def __init__(self, parent: int, name: bytes, *, final_mode: int) -> None:
        self._parent: Final = parent
        self._name: Final = name
        self._final_mode: Final = final_mode
        self._above: Final[list[int]] = []
        self._names: Final[list[bytes]] = []
        self._open: Final[OrderedDict[int, int]] = OrderedDict()
        self._most_open: Final = max(1, min(_OPEN_FOLDERS, getrlimit(RLIMIT_NOFILE)[0] - _OTHER_DESCRIPTORS))

    def make(self, above: int, name: bytes) -> int:
        """Make a folder and return its number; the top one is above number -1 and has no name."""
        if above < 0:
            os.mkdir(self._name, 0o700, dir_fd=self._parent)
        else:
            os.mkdir(name, 0o700, dir_fd=self.descriptor(above))
        self._above.append(above)
        self._names.append(name)
        return len(self._above) - 1

    def descriptor(self, folder: int) -> int:
        """Return an open descriptor of a folder; it stays open for a while only."""
        descriptor = self._open.get(folder)
        if descriptor is not None:
            self._open.move_to_end(folder)
            return descriptor
        above = self._above[folder]
        if above < 0:
            descriptor = os.open(self._name, _FOLDER, dir_fd=self._parent)
        else:
            descriptor = os.open(self._names[folder], _FOLDER, dir_fd=self.descriptor(above))
        self._open[folder] = descriptor
        if len(self._open) > self._most_open:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def names(self, folder: int, name: bytes) -> tuple[bytes, ...]:
        """Return the names from the top to an entry of a folder."""
        names = [name]
        while self._above[folder] >= 0:
            names.append(self._names[folder])
            folder = self._above[folder]
        return tuple(reversed(names))

    def path(self, folder: int, name: bytes) -> bytes:
        """Return the path of an entry of a folder."""
        return b"/".join(self.names(folder, name))

    def finish(self) -> None:
        """Make every folder read-only, the innermost first."""
        for folder in reversed(range(len(self._above))):
            os.fchmod(self.descriptor(folder), self._final_mode)

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            os.close(self._open.popitem()[1])
