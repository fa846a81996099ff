"""Selects which entries of a commit's trees are written, and computes their totals before anything is.

What is written may differ from what is in a tree. Each difference is recorded with its reason:

- ``name``: a name that is too long or has control bytes; everything below it is skipped too
- ``duplicate``: the same name again
- ``mode``: a mode that Git never wrote; extra bits are ignored, and an unknown type counts as a submodule
- ``empty_tree``: a directory without a file at any depth, which Git does not create
- ``bare_repository``: a directory that Git takes for a repository of its own. At the top, where Git commands in the
  working tree would find it, its ``HEAD`` is skipped; further down everything is written
"""

from __future__ import annotations

from typing import Final

from coderepos.exceptions import PathTooLong, RepositoryTooLarge, TooManyEntries, TreeTooDeep, UnsafeRepository
from coderepos.git.limits import Limits
from coderepos.git.pack.pack_file import Pack
from coderepos.git.worktree.entry_names import HEAD, check_name_above_link, is_git_directory, is_writable
from coderepos.git.worktree.tree_entries import Entry

BLOCK_BYTES: Final = 4_096
"""Block size that file sizes are rounded up to, as most file systems do."""


class TreeTotals:
    """The totals of a tree, with everything below it.

    :param entries: number of entries, including those that are not written.
    :param path_bytes: length of its longest path, with a slash before each name.
    :param is_empty: whether it holds no file at any depth.
    :param has_links: whether there is a symbolic link at any depth, written or not.
    :param is_repository: whether Git may take it for a repository.
    """

    __slots__ = ("depth", "disk_bytes", "entries", "has_links", "is_empty", "is_repository", "path_bytes")

    def __init__(  # noqa: PLR0913  a value, one argument a field
        self,
        entries: int,
        disk_bytes: int,
        depth: int,
        path_bytes: int,
        *,
        is_empty: bool,
        has_links: bool,
        is_repository: bool,
    ) -> None:
        self.entries: Final = entries
        self.disk_bytes: Final = disk_bytes
        self.depth: Final = depth
        self.path_bytes: Final = path_bytes
        self.is_empty: Final = is_empty
        self.has_links: Final = has_links
        self.is_repository: Final = is_repository


class Trees:
    """The trees below one root; each is there once, however often it is used.

    :param root: number of the root tree.
    """

    def __init__(self, root: int) -> None:
        self.root: Final = root
        self.entries: Final[dict[int, list[Entry]]] = {}
        """Entries to be written, by number of the tree."""
        self.differences: Final[dict[int, list[tuple[str, bytes, int]]]] = {}
        """Differences by number of the tree: reason, name, and number of entries."""
        self.totals: Final[dict[int, TreeTotals]] = {}
        self.lacks_empty_tree = False
        """Whether the empty tree is used but not in the pack."""

    @property
    def total(self) -> TreeTotals:
        """The totals of the whole working tree."""
        return self.totals[self.root]

    def add_difference(self, tree: int, reason: str, name: bytes, count: int = 1) -> None:
        """Record a difference between a tree and what is written of it."""
        self.differences.setdefault(tree, []).append((reason, name, count))


def compute_totals(trees: Trees, pack: Pack, limits: Limits, other_bytes: int) -> None:
    """Reduce the entries to what is written, and fill in the totals, once per tree and without recursion.

    :raises UnsafeRepository: a tree contains itself, or a link is in a directory where Git refuses links.
    :raises LimitExceeded: the subclass for the limit that the working tree would exceed.
    """
    open_trees: set[int] = set()
    todo = [trees.root]
    while todo:
        tree = todo[-1]
        if tree in trees.totals:
            todo.pop()
            continue
        inner = {entry.position for entry in trees.entries[tree] if entry.is_directory}
        # A set difference would walk through all totals for each tree.
        unknown = {one for one in inner if one not in trees.totals}
        if unknown & open_trees:
            raise UnsafeRepository(reason="tree inside itself")
        if unknown:
            open_trees.add(tree)
            todo += unknown
            continue
        todo.pop()
        open_trees.discard(tree)
        totals = _totals(tree, trees, pack)
        if totals.depth > limits.depth:
            raise TreeTooDeep(figure=totals.depth, limit=limits.depth)
        if totals.entries > limits.entries:
            raise TooManyEntries(figure=totals.entries, limit=limits.entries)
        if totals.path_bytes - 1 > limits.path_bytes:
            raise PathTooLong(figure=totals.path_bytes - 1, limit=limits.path_bytes)
        if totals.disk_bytes + other_bytes > limits.disk_bytes:
            raise RepositoryTooLarge(figure=totals.disk_bytes + other_bytes, limit=limits.disk_bytes)
        trees.totals[tree] = totals


def _totals(tree: int, trees: Trees, pack: Pack) -> TreeTotals:
    count, is_empty, has_links = _select_entries(tree, trees)
    entries = trees.entries[tree]
    names = {entry.name for entry in entries if not (entry.name == HEAD and (entry.is_directory or entry.is_gitlink))}
    is_repository = is_git_directory(names)
    if is_repository and tree == trees.root:
        trees.entries[tree] = entries = [entry for entry in entries if entry.name != HEAD]
        trees.add_difference(tree, "bare_repository", HEAD)
        count += 1
    disk_bytes, depth, path_bytes = BLOCK_BYTES, 0, 0
    for entry in entries:
        count += 1
        longest = len(entry.name) + 1
        if entry.is_directory:
            inner = trees.totals[entry.position]
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
    return TreeTotals(
        count, disk_bytes, depth, path_bytes, is_empty=is_empty, has_links=has_links, is_repository=is_repository
    )


def _select_entries(tree: int, trees: Trees) -> tuple[int, bool, bool]:
    """Remove the entries that are not written, and record them.

    :returns: how many entries were removed, whether there is no file, and whether there are links, removed or not.
    """
    kept: list[Entry] = []
    skipped, is_empty, has_links = 0, True, False
    for entry in trees.entries[tree]:
        if entry.is_directory:
            inner = trees.totals[entry.position]
            below = inner.entries
            if inner.is_empty:
                trees.add_difference(tree, "empty_tree", entry.name, 1 + below)
                skipped += 1 + below
                if entry.instead_of is None:
                    continue
                entry, below = entry.instead_of, 0
            else:
                has_links |= inner.has_links
                _check_directory(tree, entry.name, inner, trees)
        else:
            below = 0
        is_empty = False
        has_links |= entry.is_symlink
        if entry.is_odd:
            trees.add_difference(tree, "mode", entry.name)
        if is_writable(entry.name):
            kept.append(entry)
        else:
            trees.add_difference(tree, "name", entry.name, 1 + below)
            skipped += 1 + below
    trees.entries[tree] = kept
    return skipped, is_empty, has_links


def _check_directory(tree: int, name: bytes, inner: TreeTotals, trees: Trees) -> None:
    """Check the name of a directory with files, and record the directory if Git may take it for a repository."""
    if inner.has_links:
        check_name_above_link(name)
    if inner.is_repository:
        trees.add_difference(tree, "bare_repository", name)
