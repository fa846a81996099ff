"""Writes a working tree: exact bytes, by directory descriptors, never through a link.

Regular files get their final mode when they are created, directories when they are complete. Symbolic links are created
last. Half of the files are written by a second process, since creating files takes the kernel longer than everything
else here takes Python.
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
from coderepos.git.worktree.symlinks import Symlinks
from coderepos.git.worktree.tree_entries import Entry
from coderepos.git.worktree.tree_totals import Trees

_MAX_OPEN_DIRECTORIES: Final = 900
_OTHER_DESCRIPTORS: Final = 50

_FILE_OVERHEAD_BYTES: Final = 10_000
"""Fixed overhead charged per file: creating one takes as long as inflating so many bytes."""

_MIN_SHARED_WORK: Final = 50_000_000
"""Least work that is worth forking for; counted in bytes, with ``_FILE_OVERHEAD_BYTES`` for each file."""

_MAX_LINKS_BYTES: Final = 16 * 10**6  # of all targets, which stay in memory until all links are known
_LINK_TARGET_BYTES: Final = 4_095
_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_LFS_POINTER_BYTES: Final = 1_024

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Destination:
    """A directory and the entry in it as which a blob is written."""

    __slots__ = ("directory", "entry")

    def __init__(self, directory: int, entry: Entry) -> None:
        self.directory: Final = directory
        self.entry: Final = entry


class Checkout:
    """Writes one working tree.

    :param parent: descriptor of the directory in which ``name`` is created.
    :param pack: has the blobs of the trees.
    :param substitutions: counts what is not written as it is in the repository.
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
        self._directories: Final = _Directories(parent, name, final_mode=0o550 if group_readable else 0o500)
        self._file_mode: Final = 0o440 if group_readable else 0o400
        self._program_mode: Final = 0o550 if group_readable else 0o500
        self._destinations: Final[dict[int, list[_Destination]]] = {}
        self._links: Final = Symlinks()
        self._link_bytes = 0
        self._pending_links: Final[list[tuple[_Destination, bytes]]] = []
        self._substitutions: Final = substitutions

    def write(self, delta_tree: DeltaTree) -> None:
        """Write everything.

        :raises OSError: the disk is full, or somebody else changed the directory.
        :raises InternalError: the second process was killed.
        """
        try:
            self._create_directories()
            self._write_blobs(delta_tree)
            self._create_links()
            self._directories.finish()
        finally:
            self._directories.close()

    def _write_blobs(self, delta_tree: DeltaTree) -> None:
        shared = self._shared_positions() if cores() > 1 else set()
        if not shared:
            self._write_some(delta_tree, set(self._destinations))
            return
        with Forked(lambda: self._write_some(delta_tree, shared)) as worker:
            self._write_some(delta_tree, self._destinations.keys() - shared)
            if not worker.has_started:
                self._write_some(delta_tree, shared)
            elif not worker.succeeded():
                raise self._worker_error(worker, delta_tree, shared)

    def _shared_positions(self) -> set[int]:
        """Return the positions of the blobs that a second process is to write: half of the work, or none.

        They are at the end of the pack, so that few objects are built by both processes. There are none if there is
        little work, or an object so large that only one process should have it in memory.
        """
        work = sum(map(self._work, self._destinations))
        shared: set[int] = set()
        if work < _MIN_SHARED_WORK or self._pack.largest_bytes > LARGE_BYTES:
            return shared
        left = work // 2
        for position in sorted(self._destinations, reverse=True):
            if left > 0 and self._is_plain(position):
                shared.add(position)
                left -= self._work(position)
        return shared if len(shared) < len(self._destinations) else set()

    @staticmethod
    def _worker_error(worker: Forked, delta_tree: DeltaTree, positions: set[int]) -> Exception:
        """Return the error that ended the second process; its files are not written again.

        :raises GitError: an object is malformed, which shows when it is built here.
        """
        if error := worker.os_error():
            return error
        for _ in delta_tree.objects(positions):
            continue
        return InternalError()

    def _work(self, position: int) -> int:
        return self._pack.sizes[position] + _FILE_OVERHEAD_BYTES * len(self._destinations[position])

    def _is_plain(self, position: int) -> bool:
        """Return whether this blob needs no substitution: it is neither a link nor small enough for an LFS pointer."""
        is_link = any(destination.entry.is_symlink for destination in self._destinations[position])
        return self._pack.sizes[position] > _LFS_POINTER_BYTES and not is_link

    def _write_some(self, delta_tree: DeltaTree, positions: set[int]) -> None:
        for position, data in delta_tree.objects(positions):
            for destination in self._destinations[position]:
                self._write(destination, data)

    def _create_directories(self) -> None:
        todo = [(self._directories.create(-1, b""), self._trees.root)]
        while todo:
            directory, tree = todo.pop()
            for reason, name, count in self._trees.differences.get(tree, ()):
                self._substitutions.add(reason, self._directories.path(directory, name), count)
            for entry in self._trees.entries[tree]:
                if entry.is_directory:
                    todo.append((self._directories.create(directory, entry.name), entry.position))
                elif entry.is_gitlink:
                    self._directories.create(directory, entry.name)
                    self._substitutions.add("gitlink", self._directories.path(directory, entry.name))
                else:
                    self._destinations.setdefault(entry.position, []).append(_Destination(directory, entry))

    def _write(self, destination: _Destination, data: bytes) -> None:
        if destination.entry.is_symlink:
            self._add_link(destination, data)
            return
        if len(data) <= _LFS_POINTER_BYTES and data.startswith(_LFS_POINTER):
            self._substitutions.add(
                "lfs_pointer", self._directories.path(destination.directory, destination.entry.name)
            )
        self._write_file(destination, data, self._program_mode if destination.entry.is_executable else self._file_mode)

    def _write_file(self, destination: _Destination, data: bytes, mode: int) -> None:
        descriptor = os.open(
            destination.entry.name, _NEW_FILE, mode, dir_fd=self._directories.descriptor(destination.directory)
        )
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)

    def _add_link(self, destination: _Destination, target: bytes) -> None:
        self._link_bytes += len(target)
        if len(target) > _LINK_TARGET_BYTES or self._link_bytes > _MAX_LINKS_BYTES:
            self._write_link_text(destination, target)
            return
        self._links.add(self._directories.names(destination.directory, destination.entry.name), target)
        self._pending_links.append((destination, target))

    def _create_links(self) -> None:
        for destination, target in self._pending_links:
            if self._links.resolves_inside(self._directories.names(destination.directory, destination.entry.name)):
                os.symlink(target, destination.entry.name, dir_fd=self._directories.descriptor(destination.directory))
            else:
                self._write_link_text(destination, target)

    def _write_link_text(self, destination: _Destination, target: bytes) -> None:
        """Write a small file that contains the target, as Git does with ``core.symlinks=false``."""
        self._substitutions.add("symlink", self._directories.path(destination.directory, destination.entry.name))
        self._write_file(destination, target, self._file_mode)


class _Directories:
    """The directories of a working tree by number; a limited number of them is open."""

    def __init__(self, parent: int, name: bytes, *, final_mode: int) -> None:
        self._parent: Final = parent
        self._name: Final = name
        self._final_mode: Final = final_mode
        self._parents: Final[list[int]] = []
        self._names: Final[list[bytes]] = []
        self._open: Final[OrderedDict[int, int]] = OrderedDict()
        self._max_open: Final = max(1, min(_MAX_OPEN_DIRECTORIES, getrlimit(RLIMIT_NOFILE)[0] - _OTHER_DESCRIPTORS))

    def create(self, parent: int, name: bytes) -> int:
        """Create a directory and return its number; the top one has parent -1 and no name."""
        if parent < 0:
            os.mkdir(self._name, 0o700, dir_fd=self._parent)
        else:
            os.mkdir(name, 0o700, dir_fd=self.descriptor(parent))
        self._parents.append(parent)
        self._names.append(name)
        return len(self._parents) - 1

    def descriptor(self, directory: int) -> int:
        """Return an open descriptor of a directory, which later calls may close."""
        descriptor = self._open.get(directory)
        if descriptor is not None:
            self._open.move_to_end(directory)
            return descriptor
        parent = self._parents[directory]
        if parent < 0:
            descriptor = os.open(self._name, _DIRECTORY, dir_fd=self._parent)
        else:
            descriptor = os.open(self._names[directory], _DIRECTORY, dir_fd=self.descriptor(parent))
        self._open[directory] = descriptor
        if len(self._open) > self._max_open:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def names(self, directory: int, name: bytes) -> tuple[bytes, ...]:
        """Return the path of an entry of a directory, as names from the top."""
        names = [name]
        while self._parents[directory] >= 0:
            names.append(self._names[directory])
            directory = self._parents[directory]
        return tuple(reversed(names))

    def path(self, directory: int, name: bytes) -> bytes:
        """Return the path of an entry of a directory."""
        return b"/".join(self.names(directory, name))

    def finish(self) -> None:
        """Make every directory read-only, the innermost first."""
        for directory in reversed(range(len(self._parents))):
            os.fchmod(self.descriptor(directory), self._final_mode)

    def close(self) -> None:
        """Close all descriptors."""
        while self._open:
            os.close(self._open.popitem()[1])
