"""Reads the trees of a commit and sizes up the working tree that they make, before any of it is written."""

from __future__ import annotations

import stat

from coderepos.exceptions import PathTooLong, RepositoryTooLarge, TooManyEntries, TreeTooDeep, UnsafeRepository
from coderepos.git.names import check_name, is_writable
from coderepos.git.pack import BLOB, ID_BYTES, TREE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final

    from coderepos.git.families import Families
    from coderepos.git.limits import Limits
    from coderepos.git.pack import Pack

GITLINK: Final = 0o160000

BLOCK_BYTES: Final = 4_096
"""What file systems round up to, so what many small files take on disk."""

_MODE_DIGITS: Final = 7


class Entry:
    """One line of a tree.

    :param position: where in the pack its object is; -1 for a gitlink.
    """

    __slots__ = ("is_directory", "mode", "name", "position")

    def __init__(self, mode: int, name: bytes, position: int) -> None:
        self.mode: Final = mode
        self.name: Final = name
        self.position: Final = position
        self.is_directory: Final = stat.S_ISDIR(mode)

    @property
    def is_symlink(self) -> bool:
        """Is it a symbolic link?"""
        return stat.S_ISLNK(self.mode)

    @property
    def is_gitlink(self) -> bool:
        """Is it a commit of another repository?"""
        return self.mode == GITLINK

    @property
    def is_executable(self) -> bool:
        """May its owner run it?"""
        return bool(self.mode & stat.S_IXUSR)


class Figures:
    """What a tree takes once it is written.

    :param path_bytes: length of its longest path, with a slash before each name.
    """

    __slots__ = ("depth", "disk_bytes", "entries", "path_bytes")

    def __init__(self, entries: int, disk_bytes: int, depth: int, path_bytes: int) -> None:
        self.entries: Final = entries
        self.disk_bytes: Final = disk_bytes
        self.depth: Final = depth
        self.path_bytes: Final = path_bytes


class Trees:
    """The trees below one root, each held once however often it is used.

    :param root: position of the root tree in the pack.
    """

    def __init__(self, root: int) -> None:
        self.root: Final = root
        self.entries: Final[dict[int, list[Entry]]] = {}
        """By position of the tree; without those whose names are left out."""
        self.left_out: Final[dict[int, list[bytes]]] = {}
        """Names that are not written, by position of the tree."""
        self.figures: Final[dict[int, Figures]] = {}

    @property
    def total(self) -> Figures:
        """What the whole working tree takes."""
        return self.figures[self.root]


def read_trees(
    root_id: bytes, pack: Pack, by_id: Mapping[bytes, int], families: Families, limits: Limits, *, other_bytes: int = 0
) -> Trees:
    """Return all trees below ``root_id``, checked and sized up.

    :param by_id: positions of all objects.
    :param other_bytes: what else counts against ``limits.disk_bytes``: the Git data.
    :raises UnsafeRepository: a tree or a name that Git refuses.
    :raises LimitExceeded: the leaf that names the bound that the working tree would pass.
    """
    root = _known(root_id, TREE, pack, by_id)
    trees = Trees(root)
    count = level = 0
    unread = {root}
    while unread:
        if level > limits.depth:
            raise TreeTooDeep(figure=level, limit=limits.depth)
        found: set[int] = set()
        for position, data in families.objects(unread):
            entries, left_out = [], []
            for mode, name, object_id in parse_tree(data, most=limits.entries):
                check_name(name)
                if not is_writable(name):
                    left_out.append(name)
                    continue
                entry = Entry(mode, name, -1 if mode == GITLINK else _known(object_id, _type(mode), pack, by_id))
                entries.append(entry)
                if entry.is_directory:
                    found.add(entry.position)
            trees.entries[position] = entries
            if left_out:
                trees.left_out[position] = left_out
            count += len(entries) + len(left_out)
            if count > limits.entries:
                raise TooManyEntries(figure=count, limit=limits.entries)
        unread = found - trees.entries.keys()
        level += 1
    _size_up(trees, pack, limits, other_bytes)
    return trees


def parse_tree(data: bytes, *, most: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield mode, name and object id of each entry of a tree object.

    :param most: entries after which reading stops with an error.
    :raises UnsafeRepository: the tree is malformed or holds a name twice.
    :raises TooManyEntries: it has more than ``most`` entries.
    """
    names: set[bytes] = set()
    modes: dict[bytes, int] = {}
    at, end = 0, len(data)
    while at < end:
        space = data.find(b" ", at, at + _MODE_DIGITS + 1)
        nul = data.find(b"\0", space + 1)
        if space < 0 or nul < 0 or nul + ID_BYTES >= end:
            raise UnsafeRepository(reason="malformed tree")
        name = data[space + 1 : nul]
        if name in names:
            raise UnsafeRepository(reason="name twice in a tree")
        names.add(name)
        if len(names) > most:
            raise TooManyEntries(figure=len(names), limit=most)
        digits = data[at:space]
        mode = modes.get(digits)
        if mode is None:
            mode = modes[digits] = _mode(digits)
        yield mode, name, data[nul + 1 : nul + 1 + ID_BYTES]
        at = nul + 1 + ID_BYTES


def _mode(digits: bytes) -> int:
    if not digits or digits.strip(b"01234567"):
        raise UnsafeRepository(reason="malformed tree")
    mode = int(digits, 8)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode) or mode == GITLINK):
        raise UnsafeRepository(reason="mode of a tree entry")
    return mode


def _type(mode: int) -> int:
    return TREE if stat.S_ISDIR(mode) else BLOB


def _known(object_id: bytes, kind: int, pack: Pack, by_id: Mapping[bytes, int]) -> int:
    position = by_id.get(object_id)
    if position is None:
        raise UnsafeRepository(reason="object of a tree entry missing")
    if pack.kinds[position] != kind:
        raise UnsafeRepository(reason="type of a tree entry")
    return position


def _size_up(trees: Trees, pack: Pack, limits: Limits, other_bytes: int) -> None:
    """Fill in the figures, each tree's once; no recursion and no trust in the ids to rule out cycles."""
    open_trees: set[int] = set()
    todo = [trees.root]
    while todo:
        position = todo[-1]
        if position in trees.figures:
            todo.pop()
            continue
        inner = {entry.position for entry in trees.entries[position] if entry.is_directory}
        # Not by the difference of both, which walks through all figures for each tree.
        unknown = {tree for tree in inner if tree not in trees.figures}
        if unknown & open_trees:
            raise UnsafeRepository(reason="tree inside itself")
        if unknown:
            open_trees.add(position)
            todo += unknown
            continue
        todo.pop()
        open_trees.discard(position)
        figures = _figures(position, trees, pack)
        if figures.depth > limits.depth:
            raise TreeTooDeep(figure=figures.depth, limit=limits.depth)
        if figures.entries > limits.entries:
            raise TooManyEntries(figure=figures.entries, limit=limits.entries)
        if figures.path_bytes - 1 > limits.path_bytes:
            raise PathTooLong(figure=figures.path_bytes - 1, limit=limits.path_bytes)
        if figures.disk_bytes + other_bytes > limits.disk_bytes:
            raise RepositoryTooLarge(figure=figures.disk_bytes + other_bytes, limit=limits.disk_bytes)
        trees.figures[position] = figures


def _figures(position: int, trees: Trees, pack: Pack) -> Figures:
    count, disk_bytes, depth, path_bytes = 0, BLOCK_BYTES, 0, 0
    for entry in trees.entries[position]:
        count += 1
        longest = len(entry.name) + 1
        if entry.is_directory:
            inner = trees.figures[entry.position]
            count += inner.entries
            disk_bytes += inner.disk_bytes
            depth = max(depth, inner.depth + 1)
            longest += inner.path_bytes
        elif entry.is_gitlink:
            disk_bytes += BLOCK_BYTES
            depth = max(depth, 1)
        else:
            disk_bytes += -(-pack.sizes[entry.position] // BLOCK_BYTES) * BLOCK_BYTES
        path_bytes = max(path_bytes, longest)
    count += len(trees.left_out.get(position, ()))
    return Figures(count, disk_bytes, depth, path_bytes)
