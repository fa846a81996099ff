"""Resolves deltas by walking the trees they form: below each base the deltas that are applied to it, depth first.

There is no recursion, since a chain may be as long as the pack. Only the objects between the root and the current delta
that still have unvisited children stay in memory; past a budget the oldest are evicted, and rebuilt when needed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Container, Iterable, Iterator
from hashlib import sha1
from typing import Final

from coderepos.exceptions import InflatedTooLarge, RemoteProtocolError
from coderepos.git.limits import Limits
from coderepos.git.pack.delta import DELTA_OVERHEAD_BYTES, LARGE_BYTES, apply_delta, apply_delta_in_pieces
from coderepos.git.pack.object_links import Links
from coderepos.git.pack.pack_file import ID_BYTES, REF_DELTA, TREE, TYPE_NAMES, Pack

_STACK_BYTES: Final = 32 * 10**6
"""Most content that the bases on the stack of a walk take."""

_TREE_CACHE_BYTES: Final = 16 * 10**6
"""Most memory that recently built tree objects take."""

_CACHE_OVERHEAD_BYTES: Final = 150
"""Fixed overhead charged per cached object: a bytes object and its entry in a dictionary."""


class _BaseData:
    """An object on the stack of a walk: it has children that were not visited yet."""

    __slots__ = ("data", "next_child", "position")

    def __init__(self, position: int, data: bytes | None, next_child: int) -> None:
        self.position = position
        self.data = data
        self.next_child = next_child


class DeltaTree:
    """The objects of a pack, linked from each base to the deltas on it.

    :param pack: the scanned pack.
    """

    def __init__(self, pack: Pack, limits: Limits) -> None:
        self._pack: Final = pack
        self._limits: Final = limits
        self._first_child = array("i")
        self._next_sibling = array("i")
        self._stack_bytes = 0
        self._evicted = 0
        self._rebuilt_bytes = 0
        self._was_built: Final = bytearray(len(pack))
        self._cached_trees: Final[dict[int, bytes]] = {}
        """Tree objects that :meth:`objects` built last, requested or not: the next level may be built on them."""
        self._cached_order: Final[deque[int]] = deque()
        self._cached_bytes = 0

    def resolve(self, positions: range, links: Links) -> None:
        """Fill in the ids of the deltas among ``positions``, whose bases are all given by offset.

        :param links: receives the ids that the trees and commits among them name.
        :raises RemoteProtocolError: a delta does not fit its base.
        :raises InflatedTooLarge: too much had to be rebuilt.
        """
        pack = self._pack
        bases, kinds, ids = pack.bases, pack.kinds, pack.ids
        roots = self._link_chains([position for position in positions if bases[position] >= 0])
        first, last = positions.start, positions.stop
        for root in roots:
            kind = kinds[root]
            name = TYPE_NAMES[kind]
            for position, data in self._walk(root):
                if first <= position < last:
                    digest = sha1(b"%s %d\0" % (name, len(data)), usedforsecurity=False)
                    digest.update(data)
                    ids[position * ID_BYTES : position * ID_BYTES + ID_BYTES] = digest.digest()
                    if kind <= TREE:
                        links.add(kind, data)
                del data  # or it would stay in memory while the next one is built

    def resolve_by_id(self, links: Links) -> None:
        """Fill in the ids, types and bases of all deltas, where some name their bases by id.

        :param links: receives the ids that the trees and commits among them name.
        :raises RemoteProtocolError: a delta does not fit its base, or its base is not in the pack, or is there twice.
        :raises InflatedTooLarge: too much had to be rebuilt.
        """
        pack, by_id = self._pack, _DeltasById(self._pack)
        self._link(range(len(pack)))
        roots = [position for position, base in enumerate(pack.bases) if base < 0 and pack.kinds[position] != REF_DELTA]
        resolved = 0
        for root in roots:
            resolved += 1
            self._link_ref_deltas(root, by_id)
            if self._first_child[root] < 0:
                continue
            kind = pack.kinds[root]
            name = TYPE_NAMES[kind]
            for position, data in self._walk(root):
                digest = sha1(b"%s %d\0" % (name, len(data)), usedforsecurity=False)
                digest.update(data)
                if kind <= TREE:
                    links.add(kind, data)
                del data
                pack.ids[position * ID_BYTES : position * ID_BYTES + ID_BYTES] = digest.digest()
                pack.kinds[position] = kind
                resolved += 1
                self._link_ref_deltas(position, by_id)
        if resolved != len(pack) or _has_duplicate(pack, by_id.base_ids):
            raise RemoteProtocolError(reason="base of a delta")

    def objects(self, positions: set[int]) -> Iterator[tuple[int, bytes]]:
        """Yield position and content of these objects, one delta tree after the other; each is built once.

        The deltas must be resolved. Tree objects may be requested level by level, whatever their deltas are based on:
        those built last are cached, and what has to be rebuilt is counted.

        :raises InflatedTooLarge: too much had to be rebuilt.
        """
        roots = self._link_chains(sorted(positions), self._cached_trees)
        known = {root: self._cached_trees[root] for root in roots if root in self._cached_trees}
        for root in roots:
            data = known.pop(root, None)
            if data is None:
                data = self._pack.undeltified(root)
                self._count_built(root, data)
            if root in positions:
                yield root, data
            if self._first_child[root] < 0:
                continue
            for position, built in self._walk(root, data):
                self._count_built(position, built)
                if position in positions:
                    yield position, built

    def _count_built(self, position: int, data: bytes) -> None:
        if self._was_built[position]:
            self._count_rebuilt(data)
        self._was_built[position] = 1
        if (
            self._pack.kinds[position] == TREE
            and len(data) <= _TREE_CACHE_BYTES // 4
            and position not in self._cached_trees
        ):
            self._cached_trees[position] = data
            self._cached_order.append(position)
            self._cached_bytes += len(data) + _CACHE_OVERHEAD_BYTES
            while self._cached_bytes > _TREE_CACHE_BYTES:
                self._cached_bytes -= len(self._cached_trees.pop(self._cached_order.popleft())) + _CACHE_OVERHEAD_BYTES

    def _count_rebuilt(self, data: bytes) -> None:
        self._rebuilt_bytes += len(data) + DELTA_OVERHEAD_BYTES
        limit = self._limits.inflated_bytes(self._pack.size_bytes)
        if self._rebuilt_bytes > limit:
            raise InflatedTooLarge(figure=self._rebuilt_bytes, limit=limit)

    def _link_chains(self, positions: Iterable[int], known: Container[int] = ()) -> list[int]:
        """Link these objects and their bases, up to the roots or to what is known; return where the chains begin."""
        bases = self._pack.bases
        needed: set[int] = set()
        roots = []
        for position in positions:
            while position not in needed:
                needed.add(position)
                if bases[position] < 0 or position in known:
                    roots.append(position)
                    break
                position = bases[position]
        self._link(needed.difference(roots))
        return roots

    def _link(self, positions: set[int] | range) -> None:
        """Link each object to its children among ``positions``."""
        count = len(self._pack)
        self._first_child = array("i", b"\xff" * 4 * count)
        self._next_sibling = array("i", b"\xff" * 4 * count)
        bases, first, following = self._pack.bases, self._first_child, self._next_sibling
        for position in positions:
            base = bases[position]
            if base >= 0:
                following[position] = first[base]
                first[base] = position

    def _link_ref_deltas(self, base: int, by_id: _DeltasById) -> None:
        """Make the deltas that name this object's id as their base its children."""
        if not by_id.remaining:
            return
        for position in by_id.take(self._pack.object_id(base)):
            self._pack.bases[position] = base
            self._next_sibling[position] = self._first_child[base]
            self._first_child[base] = position

    def _walk(self, root: int, data: bytes | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield position and content of every delta below ``root``, parents before children."""
        first, following = self._first_child, self._next_sibling
        data = self._pack.undeltified(root) if data is None else data
        stack = [_BaseData(root, data, first[root])]
        self._stack_bytes, self._evicted = len(data), 0
        while stack:
            parent = stack[-1]
            data = self._content(stack)
            child = parent.next_child
            parent.next_child = following[child]
            if parent.next_child < 0:
                stack.pop()
                parent.data = None
                self._stack_bytes -= len(data)
            data = self._apply(child, data)
            yield child, data
            if first[child] >= 0:
                stack.append(_BaseData(child, data, first[child]))
                self._count_stacked(stack, data)
            del data

    def _count_stacked(self, stack: list[_BaseData], data: bytes) -> None:
        """Count the object on top of the stack, and evict the lowest ones past the budget."""
        self._stack_bytes += len(data)
        # All below here were evicted before; some of them may have left the stack since.
        self._evicted = min(self._evicted, len(stack) - 1)
        while self._stack_bytes > _STACK_BYTES and self._evicted < len(stack) - 1:
            evicted = stack[self._evicted]
            if evicted.data is not None:
                self._stack_bytes -= len(evicted.data)
                evicted.data = None
            self._evicted += 1

    def _content(self, stack: list[_BaseData]) -> bytes:
        """Return the content of the object on top of the stack, rebuilt where it was evicted."""
        top = stack[-1]
        if top.data is not None:
            return top.data
        # The lowest are evicted first, so none of those below the top has its content either.
        chain = [top.position]
        while self._pack.bases[chain[-1]] >= 0:
            chain.append(self._pack.bases[chain[-1]])
        data = self._pack.undeltified(chain.pop())
        while chain:
            data = self._apply(chain.pop(), data)
            self._count_rebuilt(data)
        top.data = data
        self._count_stacked(stack, data)
        return data

    def _apply(self, position: int, base: bytes) -> bytes:
        pack, result_bytes = self._pack, self._pack.sizes[position]
        if max(len(base), result_bytes) > LARGE_BYTES:
            return apply_delta_in_pieces(base, pack.inflated(position), result_bytes=result_bytes)
        return apply_delta(base, pack.delta(position), result_bytes=result_bytes)


def _has_duplicate(pack: Pack, base_ids: set[bytes]) -> bool:
    """Return whether one of these bases is in the pack twice.

    A reader looks the base of such a delta up by its id, and may find the copy that is itself based on the delta. ``git
    index-pack`` up to 2.49 refuses such a pack; later versions accept it, and reading it never ends.
    """
    found: set[bytes] = set()
    for at in range(0, len(pack) * ID_BYTES, ID_BYTES):
        object_id = pack.ids[at : at + ID_BYTES]
        if object_id in base_ids:
            if object_id in found:
                return True
            found.add(object_id)
    return False


class _DeltasById:
    """The deltas whose bases are given by id, in packed columns: a pack may consist of nothing else."""

    def __init__(self, pack: Pack) -> None:
        ids = bytes(pack.base_ids)
        keys = [ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES)]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self.base_ids: Final = set(keys)
        self._ids: Final = b"".join([keys[number] for number in order])
        self._positions: Final = array("I", [pack.ref_deltas[number] for number in order])
        self._taken: Final = bytearray(len(order))
        self.remaining = len(order)

    def take(self, base_id: bytes) -> list[int]:
        """Return the positions of the deltas on this base, once: the second copy of an object gets none."""
        at = bisect_left(range(len(self._positions)), base_id, key=self._id)
        found = []
        while at < len(self._positions) and self._id(at) == base_id and not self._taken[at]:
            self._taken[at] = 1
            found.append(self._positions[at])
            at += 1
        self.remaining -= len(found)
        return found

    def _id(self, number: int) -> bytes:
        return self._ids[number * ID_BYTES : number * ID_BYTES + ID_BYTES]
