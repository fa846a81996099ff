"""Looks at what the build child left before any of it is published, and believes nothing that it said.

The child reads hostile objects, so its work is checked as that of somebody else: what is there, whose it is, what it
leads to, how large it is. What is in the files is not read, but for those few that tell Git where else to look.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from coderepos.disk_errors import disk_error, errno_name
from coderepos.exceptions import InternalError, UnsafeRepository
from coderepos.git.limits import Limits
from coderepos.git.pack.bare_repository import CONFIG
from coderepos.git.pack.pack_file import EMPTY_TREE
from coderepos.git.ref_names import is_ref_name
from coderepos.git.wire import MESSAGE_BYTES
from coderepos.git.worktree.entry_names import HEAD, check_name, is_git_directory, is_writable
from coderepos.git.worktree.symlinks import Links
from coderepos.git.worktree.tree_totals import BLOCK_BYTES

logger = logging.getLogger(__name__)

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITABLE_OR_SPECIAL: Final = 0o222 | stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_USUAL: Final = frozenset(stat.S_IFREG | mode for mode in (0o400, 0o500, 0o440, 0o550))
"""Modes of files that need no closer look."""

_STAT_BLOCK_BYTES: Final = 512
_ENTRIES_PER_PAUSE: Final = 1_000
_MOST_HEAD_BYTES: Final = 1_024
_MOST_REFS_BYTES: Final = 2 * MESSAGE_BYTES
"""Refs take less than twice the message that names them: each has an id more."""

_MOST_ROOM: Final = 16
"""Files may take so many times the limit on the disk: blocks of 64 KB take that of small ones, counted in 4 KB."""

_EMPTY_TREE_FOLDER: Final = EMPTY_TREE[:1].hex()
_EMPTY_TREE_FILE: Final = EMPTY_TREE[1:].hex()
_PACK_FILE: Final = re.compile(r"pack-([0-9a-f]{40})\.(pack|idx)\Z")
_COMMIT: Final = re.compile(rb"[0-9a-f]{40}\Z")
_BRANCH: Final = b"ref: refs/heads/"
_PACKED_REFS: Final = re.compile(
    rb"# pack-refs with: peeled fully-peeled sorted \n"
    rb"(?:[0-9a-f]{40} refs/(?:heads|tags)/[^\x00-\x20\x7f]++\n(?:\^[0-9a-f]{40}\n)?+)*+\Z"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """The figures of what is there, as the build child counts them."""

    git_bytes: int
    tree_bytes: int
    entries: int


def inspect(incoming: Path, limits: Limits, *, on_pause: Callable[[], None]) -> Inspected:
    """Check everything below a folder in which a build child worked, and size it up.

    Nothing may change it any more: the child and all that it started have to be gone.

    :param on_pause: called after every thousand entries; what it raises ends the inspection and goes through.
    :raises InternalError: something is not as our build child leaves it; one line in the log says what.
    :raises SandboxUnavailable: the disk fails.
    """
    with _our_errors():
        return _Inspection(limits, on_pause).look_at(str(incoming))


class _Inspection:
    def __init__(self, limits: Limits, on_pause: Callable[[], None]) -> None:
        self._limits: Final = limits
        self._on_pause: Final = on_pause
        self._user_id: Final = os.geteuid()
        self._links: Final = Links()
        self._link_paths: Final[list[tuple[bytes, ...]]] = []
        self._bytes = 0
        self._block_bytes = 0
        self._entries = 0

    def look_at(self, incoming: str) -> Inspected:
        with _opened(incoming) as top:
            names = self._names(top, most=2)
            if names != {"git", "tree"}:
                _refuse("something else than a working tree and Git data")
            self._look_at_git(top)
            git_bytes, self._bytes = self._bytes, 0
            with self._folder("tree", top) as tree:
                self._look_at_tree(tree, ())
                _check_is_no_repository(tree)
        if not all(map(self._links.stays_inside, self._link_paths)):
            _refuse("a link that leads out of the working tree")
        if git_bytes + self._bytes > self._limits.disk_bytes:
            _refuse("more bytes than the limit")
        if self._block_bytes > _MOST_ROOM * self._limits.disk_bytes:
            _refuse("files that take far more room than their sizes")
        return Inspected(git_bytes=git_bytes, tree_bytes=self._bytes, entries=self._entries)

    def _look_at_git(self, top: int) -> None:
        with self._folder("git", top) as git:
            names = self._names(git, most=6)
            if names - {"shallow"} != {"HEAD", "config", "packed-refs", "objects", "refs"}:
                _refuse("Git data of another layout")
            if self._content("config", git, most=len(CONFIG)) != CONFIG:
                _refuse("a Git configuration of its own")
            if not _is_head(self._content("HEAD", git, most=_MOST_HEAD_BYTES)):
                _refuse("a HEAD that is no branch and no commit")
            if not _PACKED_REFS.match(self._content("packed-refs", git, most=_MOST_REFS_BYTES)):
                _refuse("refs that are neither branches nor tags")
            if "shallow" in names:
                self._file("shallow", git)
            with self._folder("refs", git) as refs:
                self._names(refs, most=0)
            with self._folder("objects", git) as objects:
                self._look_at_objects(objects)

    def _look_at_objects(self, objects: int) -> None:
        names = self._names(objects, most=2)
        if names - {_EMPTY_TREE_FOLDER} != {"pack"}:
            _refuse("Git objects of another layout")
        if _EMPTY_TREE_FOLDER in names:
            with self._folder(_EMPTY_TREE_FOLDER, objects) as folder:
                if self._names(folder, most=1) != {_EMPTY_TREE_FILE}:
                    _refuse("a loose Git object")
                if zlib.decompressobj().decompress(self._content(_EMPTY_TREE_FILE, folder, most=64), 64) != b"tree 0\0":
                    _refuse("an empty tree that is not empty")
        with self._folder("pack", objects) as packs:
            found = [_PACK_FILE.match(name) for name in self._names(packs, most=2)]
            parts = {match.groups() for match in found if match}
            if len(parts) != 2 or len({trailer for trailer, _kind in parts}) != 1:
                _refuse("something else than one pack and its index")
            for trailer, kind in parts:
                self._file(f"pack-{trailer}.{kind}", packs)

    def _look_at_tree(self, folder: int, path: tuple[bytes, ...]) -> None:
        if len(path) > self._limits.depth:
            _refuse("folders that are too deep in each other")
        self._bytes += BLOCK_BYTES
        with os.scandir(folder) as entries:
            for entry in entries:
                self._count()
                name, status = entry.name, entry.stat(follow_symlinks=False)
                _check_name(os.fsencode(name), status.st_mode)
                if stat.S_ISDIR(status.st_mode):
                    self._check_folder(status)
                    with _opened(name, parent=folder) as inner:
                        self._look_at_tree(inner, (*path, os.fsencode(name)))
                    continue
                if stat.S_ISLNK(status.st_mode):
                    self._check_owner(status)
                    place = (*path, os.fsencode(name))
                    self._links.add(place, os.fsencode(os.readlink(name, dir_fd=folder)))
                    self._link_paths.append(place)
                elif status.st_mode not in _USUAL or status.st_nlink != 1 or status.st_uid != self._user_id:
                    self._check_file(status)
                self._charge(-(-status.st_size // BLOCK_BYTES) * BLOCK_BYTES, status)

    def _count(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            _refuse("more files and folders than the limit")
        if not self._entries % _ENTRIES_PER_PAUSE:
            self._on_pause()

    def _charge(self, size_bytes: int, status: os.stat_result) -> None:
        self._bytes += size_bytes
        self._block_bytes += status.st_blocks * _STAT_BLOCK_BYTES
        if self._bytes > self._limits.disk_bytes:
            _refuse("more bytes than the limit")

    @contextmanager
    def _folder(self, name: str, parent: int) -> Iterator[int]:
        self._check_folder(os.lstat(name, dir_fd=parent))
        with _opened(name, parent=parent) as folder:
            yield folder

    def _file(self, name: str, folder: int) -> int:
        status = os.lstat(name, dir_fd=folder)
        self._check_file(status)
        self._charge(status.st_size, status)
        return status.st_size

    def _content(self, name: str, folder: int, *, most: int) -> bytes:
        if self._file(name, folder) > most:
            _refuse("a file of Git data that is too large")
        with open(os.open(name, _FILE, dir_fd=folder), "rb") as file:
            return file.read(most)

    def _names(self, folder: int, *, most: int) -> set[str]:
        names: set[str] = set()
        with os.scandir(folder) as entries:
            for entry in entries:
                names.add(entry.name)
                if len(names) > most:
                    _refuse("something beside what it should make")
        return names

    def _check_folder(self, status: os.stat_result) -> None:
        if not stat.S_ISDIR(status.st_mode):
            _refuse("something else where a folder should be")
        self._check_owner(status)
        # A folder takes the bit for its group from the one that it is in.
        if status.st_mode & (_WRITABLE_OR_SPECIAL & ~stat.S_ISGID) or status.st_mode & 0o500 != 0o500:
            _refuse("a folder with other rights than to be read")

    def _check_file(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            _refuse("something that is neither file, folder nor link")
        self._check_owner(status)
        if status.st_mode & _WRITABLE_OR_SPECIAL or not status.st_mode & 0o400:
            _refuse("a file with other rights than to be read")
        if status.st_nlink != 1:
            _refuse("a file that has a second name")

    def _check_owner(self, status: os.stat_result) -> None:
        if status.st_uid != self._user_id:
            _refuse("something that is somebody else's")


def _check_name(name: bytes, mode: int) -> None:
    try:
        check_name(name, mode)
    except UnsafeRepository:
        _refuse("a name that Git refuses")
    if not is_writable(name):
        _refuse("a name with control bytes")


def _check_is_no_repository(tree: int) -> None:
    """Refuse what Git takes for a repository, with a configuration of its own, where a reader runs it."""
    names = set(map(os.fsencode, os.listdir(tree)))
    if is_git_directory(names) and not stat.S_ISDIR(os.lstat(HEAD, dir_fd=tree).st_mode):
        _refuse("a working tree that is a repository")


def _is_head(content: bytes) -> bool:
    line = content.removesuffix(b"\n")
    if line == content:
        return False
    if _COMMIT.match(line):
        return True
    return line.startswith(_BRANCH) and is_ref_name(line.removeprefix(b"ref: ").decode("utf-8", "surrogateescape"))


def _refuse(what: str) -> NoReturn:
    logger.error("The build child left %s; nothing of it is published", what)
    raise InternalError


@contextmanager
def _opened(name: str, *, parent: int | None = None) -> Iterator[int]:
    folder = os.open(name, _FOLDER, dir_fd=parent)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        logger.error("What the build child left can't be looked at: %s", errno_name(error))
        raise disk_error(error) from error
    except zlib.error:
        _refuse("an empty tree that is not empty")
