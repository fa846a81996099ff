"""Inspects what the build child wrote before any of it is published, without trusting what the child reported.

The child reads hostile objects, so its output is untrusted: types, owners, modes, names, link targets and sizes are
checked. Contents are not read, except for the few files that tell Git where else to look.
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
from coderepos.git.worktree.entry_names import HEAD, check_name, is_git_directory, is_plain, is_writable
from coderepos.git.worktree.symlinks import Symlinks
from coderepos.git.worktree.tree_totals import BLOCK_BYTES

logger = logging.getLogger(__name__)

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITABLE_OR_SPECIAL: Final = 0o222 | stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_USUAL: Final = frozenset(stat.S_IFREG | mode for mode in (0o400, 0o500, 0o440, 0o550))
"""Modes of files that need no closer check."""

_STAT_BLOCK_BYTES: Final = 512
_PROGRESS_ENTRIES: Final = 1_000
_MAX_HEAD_BYTES: Final = 1_024
_MAX_REFS_BYTES: Final = 2 * MESSAGE_BYTES
"""The file of refs is less than twice as long as the message that lists them: a tag may have a second id."""

_MAX_BLOCK_RATIO: Final = 16
"""Most disk space per byte of the limit: sizes are rounded to 4 KB, while a file system may use blocks of 64 KB."""

_EMPTY_TREE_DIRECTORY: Final = EMPTY_TREE[:1].hex()
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
    """Totals of what is there, counted as the build child counts them."""

    git_bytes: int
    tree_bytes: int
    entries: int


def inspect(incoming: Path, limits: Limits, *, on_progress: Callable[[], None]) -> Inspected:
    """Check everything below the directory that a build child wrote to, and return its totals.

    Nothing may change it any more: the child and all processes that it started must have ended.

    :param on_progress: called after every thousand entries; an exception from it ends the inspection and propagates.
    :raises InternalError: something is not as the build child writes it; one line in the log says what.
    :raises SandboxUnavailable: the disk fails.
    """
    with _translated_errors():
        return _Inspection(limits, on_progress).inspect(str(incoming))


class _Inspection:
    def __init__(self, limits: Limits, on_progress: Callable[[], None]) -> None:
        self._limits: Final = limits
        self._on_progress: Final = on_progress
        self._user_id: Final = os.geteuid()
        self._links: Final = Symlinks()
        self._link_paths: Final[list[tuple[bytes, ...]]] = []
        self._bytes = 0
        self._block_bytes = 0
        self._entries = 0

    def inspect(self, incoming: str) -> Inspected:
        with _opened(incoming) as top:
            names = self._names(top, most=2)
            if names != {"git", "tree"}:
                _refuse("something other than a working tree and Git data")
            self._inspect_git(top)
            git_bytes, self._bytes = self._bytes, 0
            with self._directory("tree", top) as tree:
                self._inspect_tree(tree, ())
                _check_is_no_repository(tree)
        if not all(map(self._links.resolves_inside, self._link_paths)):
            _refuse("a link that leads out of the working tree")
        if git_bytes + self._bytes > self._limits.disk_bytes:
            _refuse("more bytes than the limit")
        if self._block_bytes > _MAX_BLOCK_RATIO * self._limits.disk_bytes:
            _refuse("files that take far more disk space than their sizes")
        return Inspected(git_bytes=git_bytes, tree_bytes=self._bytes, entries=self._entries)

    def _inspect_git(self, top: int) -> None:
        with self._directory("git", top) as git:
            names = self._names(git, most=6)
            if names - {"shallow"} != {"HEAD", "config", "packed-refs", "objects", "refs"}:
                _refuse("Git data of another layout")
            if self._content("config", git, most=len(CONFIG)) != CONFIG:
                _refuse("a Git configuration of its own")
            if not _is_head(self._content("HEAD", git, most=_MAX_HEAD_BYTES)):
                _refuse("a HEAD that is neither a branch nor a commit")
            if not _PACKED_REFS.match(self._content("packed-refs", git, most=_MAX_REFS_BYTES)):
                _refuse("refs that are neither branches nor tags")
            if "shallow" in names:
                self._file("shallow", git)
            with self._directory("refs", git) as refs:
                self._names(refs, most=0)
            with self._directory("objects", git) as objects:
                self._inspect_objects(objects)

    def _inspect_objects(self, objects: int) -> None:
        names = self._names(objects, most=2)
        if names - {_EMPTY_TREE_DIRECTORY} != {"pack"}:
            _refuse("Git objects of another layout")
        if _EMPTY_TREE_DIRECTORY in names:
            with self._directory(_EMPTY_TREE_DIRECTORY, objects) as directory:
                if self._names(directory, most=1) != {_EMPTY_TREE_FILE}:
                    _refuse("a loose Git object")
                compressed = self._content(_EMPTY_TREE_FILE, directory, most=64)
                if zlib.decompressobj().decompress(compressed, 64) != b"tree 0\0":
                    _refuse("an empty tree that is not empty")
        with self._directory("pack", objects) as packs:
            found = [_PACK_FILE.match(name) for name in self._names(packs, most=2)]
            parts = {match.groups() for match in found if match}
            if len(parts) != 2 or len({trailer for trailer, _kind in parts}) != 1:
                _refuse("something other than one pack and its index")
            for trailer, kind in parts:
                self._file(f"pack-{trailer}.{kind}", packs)

    def _inspect_tree(self, directory: int, path: tuple[bytes, ...]) -> None:
        if len(path) > self._limits.depth:
            _refuse("directories that are nested too deeply")
        self._bytes += BLOCK_BYTES
        with os.scandir(directory) as entries:
            for entry in entries:
                self._count()
                name, status = entry.name, entry.stat(follow_symlinks=False)
                mode = status.st_mode
                if not is_plain(name):
                    _check_name(os.fsencode(name), mode)
                if mode in _USUAL and status.st_nlink == 1 and status.st_uid == self._user_id:
                    self._charge(-(-status.st_size // BLOCK_BYTES) * BLOCK_BYTES, status)
                    continue
                if stat.S_ISDIR(mode):
                    self._check_directory(status)
                    with _opened(name, parent=directory) as inner:
                        self._inspect_tree(inner, (*path, os.fsencode(name)))
                    continue
                if stat.S_ISLNK(mode):
                    self._check_owner(status)
                    link_path = (*path, os.fsencode(name))
                    self._links.add(link_path, os.fsencode(os.readlink(name, dir_fd=directory)))
                    self._link_paths.append(link_path)
                else:
                    self._check_file(status)
                self._charge(-(-status.st_size // BLOCK_BYTES) * BLOCK_BYTES, status)

    def _count(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            _refuse("more files and directories than the limit")
        if not self._entries % _PROGRESS_ENTRIES:
            self._on_progress()

    def _charge(self, size_bytes: int, status: os.stat_result) -> None:
        self._bytes += size_bytes
        self._block_bytes += status.st_blocks * _STAT_BLOCK_BYTES
        if self._bytes > self._limits.disk_bytes:
            _refuse("more bytes than the limit")

    @contextmanager
    def _directory(self, name: str, parent: int) -> Iterator[int]:
        self._check_directory(os.lstat(name, dir_fd=parent))
        with _opened(name, parent=parent) as directory:
            yield directory

    def _file(self, name: str, directory: int) -> int:
        status = os.lstat(name, dir_fd=directory)
        self._check_file(status)
        self._charge(status.st_size, status)
        return status.st_size

    def _content(self, name: str, directory: int, *, most: int) -> bytes:
        if self._file(name, directory) > most:
            _refuse("a file of Git data that is too large")
        with open(os.open(name, _FILE, dir_fd=directory), "rb") as file:
            return file.read(most)

    def _names(self, directory: int, *, most: int) -> set[str]:
        names: set[str] = set()
        with os.scandir(directory) as entries:
            for entry in entries:
                names.add(entry.name)
                if len(names) > most:
                    _refuse("more entries than it should create")
        return names

    def _check_directory(self, status: os.stat_result) -> None:
        if not stat.S_ISDIR(status.st_mode):
            _refuse("something other than a directory")
        self._check_owner(status)
        # A directory inherits the set-group-id bit from its parent.
        if status.st_mode & (_WRITABLE_OR_SPECIAL & ~stat.S_ISGID) or status.st_mode & 0o500 != 0o500:
            _refuse("a directory with permissions beyond reading")

    def _check_file(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            _refuse("something other than a file, directory or link")
        self._check_owner(status)
        if status.st_mode & _WRITABLE_OR_SPECIAL or not status.st_mode & 0o400:
            _refuse("a file with permissions beyond reading")
        if status.st_nlink != 1:
            _refuse("a file with a second hard link")

    def _check_owner(self, status: os.stat_result) -> None:
        if status.st_uid != self._user_id:
            _refuse("something that another user owns")


def _check_name(name: bytes, mode: int) -> None:
    try:
        check_name(name, mode)
    except UnsafeRepository:
        _refuse("a name that Git refuses")
    if not is_writable(name):
        _refuse("a name with control bytes")


def _check_is_no_repository(tree: int) -> None:
    """Refuse a working tree that Git commands in it would take for a repository with its own configuration."""
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
    directory = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield directory
    finally:
        os.close(directory)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        logger.error("What the build child left can't be inspected: %s", errno_name(error))
        raise disk_error(error) from error
    except zlib.error:
        _refuse("an empty tree that is not empty")
