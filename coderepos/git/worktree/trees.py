"""Reads the trees of a commit, including empty ones that are not in the pack and several of one name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from coderepos.exceptions import TooManyEntries, TreeTooDeep, UnsafeRepository
from coderepos.git.limits import Limits
from coderepos.git.pack.delta_tree import DeltaTree
from coderepos.git.pack.pack_file import BLOB, EMPTY_TREE, TREE, Pack
from coderepos.git.worktree.entry_names import check_name, shortened
from coderepos.git.worktree.tree_entries import DIRECTORY, GITLINK, Entry, parse_tree, without_duplicates
from coderepos.git.worktree.tree_totals import Trees, compute_totals


def read_trees(
    root_id: bytes,
    pack: Pack,
    by_id: Mapping[bytes, int],
    delta_tree: DeltaTree,
    limits: Limits,
    *,
    other_bytes: int = 0,
) -> Trees:
    """Return all trees below ``root_id``, checked and with their totals.

    :param by_id: positions of all objects.
    :param other_bytes: size of the Git data, which counts against ``limits.disk_bytes`` too.
    :raises UnsafeRepository: a tree or a name is refused.
    :raises LimitExceeded: the subclass for the limit that the working tree would exceed.
    """
    trees = TreeReader(pack, by_id, delta_tree, limits).read(root_id)
    compute_totals(trees, pack, limits, other_bytes)
    return trees


class TreeReader:
    """Reads trees level by level.

    Trees are numbered by their position in the pack. Higher numbers are for trees that are not in the pack: the empty
    tree, and those merged from several of one name.
    """

    def __init__(self, pack: Pack, by_id: Mapping[bytes, int], delta_tree: DeltaTree, limits: Limits) -> None:
        self._pack: Final = pack
        self._by_id: Final = by_id
        self._delta_tree: Final = delta_tree
        self._limits: Final = limits
        self._parsed: Final[dict[int, list[Entry]]] = {}
        self._merged: Final[dict[tuple[int, ...], int]] = {}
        self._parts: Final[dict[int, tuple[int, ...]]] = {}
        self._count = 0
        self._lacks_empty_tree = False

    def read(self, root_id: bytes) -> Trees:
        """Return the trees below ``root_id``.

        :raises UnsafeRepository: a tree or a name is refused.
        :raises LimitExceeded: there are too many entries, or trees are nested too deeply.
        """
        trees = Trees(self._number(root_id, DIRECTORY))
        unread, level = {trees.root}, 0
        while unread:
            if level > self._limits.depth:
                raise TreeTooDeep(figure=level, limit=self._limits.depth)
            self._parse({part for tree in unread for part in self._parts_of(tree)} - self._parsed.keys())
            found: set[int] = set()
            for tree in unread:
                entries = trees.entries[tree] = self._entries(tree, trees)
                found.update([entry.position for entry in entries if entry.is_directory])
            unread = found - trees.entries.keys()
            level += 1
        trees.lacks_empty_tree = self._lacks_empty_tree
        return trees

    def _parse(self, positions: set[int]) -> None:
        for position, data in self._delta_tree.objects(positions):
            entries = self._parsed[position] = []
            for mode, is_odd, name, object_id in parse_tree(data, most=self._limits.entries):
                check_name(name, mode)
                entries.append(Entry(mode, shortened(name), self._number(object_id, mode), is_odd))
            self._charge(len(entries))

    def _entries(self, tree: int, trees: Trees) -> list[Entry]:
        parts = self._parts_of(tree)
        entries = self._parsed[tree] if parts == (tree,) else [entry for part in parts for entry in self._parsed[part]]
        if len(parts) > 1:
            self._charge(len(entries))
        if len({entry.name for entry in entries}) == len(entries):
            return entries
        entries, more = without_duplicates(entries, self._merge)
        for name, count in more:
            trees.add_difference(tree, "duplicate", name, count)
        return entries

    def _number(self, object_id: bytes, mode: int) -> int:
        """Return the number of an entry's object.

        :raises UnsafeRepository: it is not in the pack, or of another type than the mode says.
        """
        if mode == GITLINK:
            return -1
        position = self._by_id.get(object_id)
        if position is None:
            if mode == DIRECTORY and object_id == EMPTY_TREE:
                self._lacks_empty_tree = True
                return self._merge(())
            raise UnsafeRepository(reason="object of a tree entry missing")
        if self._pack.kinds[position] != (TREE if mode == DIRECTORY else BLOB):
            raise UnsafeRepository(reason="type of a tree entry")
        return position

    def _merge(self, trees: Iterable[int]) -> int:
        """Return the number of the tree that has the entries of all of these, in this order.

        Of a tree that is repeated only the last occurrence counts, since it overrides the ones before.
        """
        parts = [part for tree in trees for part in self._parts_of(tree)]
        last: tuple[int, ...] = tuple(reversed(dict.fromkeys(reversed(parts))))
        if len(last) == 1:
            return last[0]
        number: int = self._merged.setdefault(last, len(self._pack) + len(self._merged))
        self._parts[number] = last
        return number

    def _parts_of(self, tree: int) -> tuple[int, ...]:
        return self._parts.get(tree) or ((tree,) if tree < len(self._pack) else ())

    def _charge(self, entries: int) -> None:
        self._count += entries
        if self._count > self._limits.entries:
            raise TooManyEntries(figure=self._count, limit=self._limits.entries)
