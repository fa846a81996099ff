"""Resolves families of deltas: a base object and all that is built on it, each made once.

No recursion: a chain may be as long as the pack. Few objects are held at a time: those on the way from the base to the
present one that still have unseen children. Past a budget the oldest are dropped and made again when they are needed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Container, Iterable, Iterator
from hashlib import sha1
from typing import Final
from zlib import decompress

from coderepos.exceptions import InflatedTooLarge, RemoteProtocolError
from coderepos.git.limits import Limits
from coderepos.git.pack.delta import LARGE_BYTES, STEP_BYTES, apply_delta, apply_delta_in_pieces
from coderepos.git.pack.object_links import Links
from coderepos.git.pack.pack_file import ID_BYTES, KEEPING_BYTES, REF_DELTA, TREE, TYPE_NAMES, Pack

_HELD_BYTES: Final = 32 * 10**6
_RECENT_BYTES: Final = 16 * 10**6


class _Generation:
    """An object with children that were not seen yet."""

    __slots__ = ("data", "next_child", "position")

    def __init__(self, position: int, data: bytes | None, next_child: int) -> None:
        self.position = position
        self.data = data
        self.next_child = next_child


class Families:
    """The objects of a pack by their bases.

    :param pack: whose deltas are to be resolved.
    """

    def __init__(self, pack: Pack, limits: Limits) -> None:
        self._pack: Final = pack
        self._limits: Final = limits
        self._first_child = array("i")
        self._next_sibling = array("i")
        self._held_bytes = 0
        self._dropped = 0
        self._made_again_bytes = 0
        self._was_made: Final = bytearray(len(pack))
        self._recent: Final[dict[int, bytes]] = {}
        """Trees that :meth:`objects` made last, whether or not they were asked for: the next call may."""
        self._recent_order: Final[deque[int]] = deque()
        self._recent_bytes = 0

    def resolve(self, positions: range, links: Links) -> None:
        """Fill in the ids of the deltas among ``positions``, whose bases are all given by offset.

        :param links: gets what the trees and commits among them name.
        :raises RemoteProtocolError: a delta does not fit its base.
        :raises InflatedTooLarge: too much had to be made again.
        """
        pack = self._pack
        bases, kinds, ids = pack.bases, pack.kinds, pack.ids
        roots = self._linked([position for position in positions if bases[position] >= 0])
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
                del data  # the next one is made while this name would hold it

    def resolve_by_id(self, links: Links) -> None:
        """Fill in the ids, types and bases of all deltas, where some name their bases by id.

        :param links: gets what the trees and commits among them name.
        :raises RemoteProtocolError: a delta does not fit its base, or its base is not in the pack, or is there twice.
        :raises InflatedTooLarge: too much had to be made again.
        """
        pack, by_id = self._pack, _DeltasById(self._pack)
        self._link(range(len(pack)))
        roots = [position for position, base in enumerate(pack.bases) if base < 0 and pack.kinds[position] != REF_DELTA]
        resolved = 0
        for root in roots:
            resolved += 1
            self._adopt(root, by_id)
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
                self._adopt(position, by_id)
        if resolved != len(pack) or _holds_twice(pack, by_id.base_ids):
            raise RemoteProtocolError(reason="base of a delta")

    def objects(self, positions: set[int]) -> Iterator[tuple[int, bytes]]:
        """Yield position and content of these objects, family by family; each is made once.

        Only for a pack whose deltas are resolved. Trees may be asked for level by level, however they are built on each
        other: those that were made last are kept, and what has to be made again is counted.

        :raises InflatedTooLarge: too much had to be made again.
        """
        roots = self._linked(sorted(positions), self._recent)
        known = {root: self._recent[root] for root in roots if root in self._recent}
        for root in roots:
            data = known.pop(root, None)
            if data is None:
                data = self._pack.undeltified(root)
                self._count_made(root, data)
            if root in positions:
                yield root, data
            if self._first_child[root] < 0:
                continue
            for position, made in self._walk(root, data):
                self._count_made(position, made)
                if position in positions:
                    yield position, made

    def _count_made(self, position: int, data: bytes) -> None:
        if self._was_made[position]:
            self._count_made_again(data)
        self._was_made[position] = 1
        if self._pack.kinds[position] == TREE and len(data) <= _RECENT_BYTES // 4 and position not in self._recent:
            self._recent[position] = data
            self._recent_order.append(position)
            self._recent_bytes += len(data) + KEEPING_BYTES
            while self._recent_bytes > _RECENT_BYTES:
                self._recent_bytes -= len(self._recent.pop(self._recent_order.popleft())) + KEEPING_BYTES

    def _count_made_again(self, data: bytes) -> None:
        self._made_again_bytes += len(data) + STEP_BYTES
        limit = self._limits.inflated_bytes(self._pack.size_bytes)
        if self._made_again_bytes > limit:
            raise InflatedTooLarge(figure=self._made_again_bytes, limit=limit)

    def _linked(self, positions: Iterable[int], known: Container[int] = ()) -> list[int]:
        """Link these objects and all that they are built on, up to what is known; return what they begin with."""
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
        """List the children among ``positions`` of each object."""
        count = len(self._pack)
        self._first_child = array("i", b"\xff" * 4 * count)
        self._next_sibling = array("i", b"\xff" * 4 * count)
        bases, first, following = self._pack.bases, self._first_child, self._next_sibling
        for position in positions:
            base = bases[position]
            if base >= 0:
                following[position] = first[base]
                first[base] = position

    def _adopt(self, base: int, by_id: _DeltasById) -> None:
        """Make the deltas that name this object's id its children."""
        if not by_id.left:
            return
        for position in by_id.taken(self._pack.object_id(base)):
            self._pack.bases[position] = base
            self._next_sibling[position] = self._first_child[base]
            self._first_child[base] = position

    def _walk(self, root: int, data: bytes | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield everything built on ``root``, parents before children."""
        first, following = self._first_child, self._next_sibling
        data = self._pack.undeltified(root) if data is None else data
        way = [_Generation(root, data, first[root])]
        self._held_bytes, self._dropped = len(data), 0
        while way:
            parent = way[-1]
            data = self._content(way)
            child = parent.next_child
            parent.next_child = following[child]
            if parent.next_child < 0:
                way.pop()
                parent.data = None
                self._held_bytes -= len(data)
            data = self._applied(child, data)
            yield child, data
            if first[child] >= 0:
                way.append(_Generation(child, data, first[child]))
                self._hold(way, data)
            del data

    def _hold(self, way: list[_Generation], data: bytes) -> None:
        """Count the newest object on the way, and drop the oldest ones past the budget."""
        self._held_bytes += len(data)
        # Those on the way up to here were dropped before; some of them may have left it since.
        self._dropped = min(self._dropped, len(way) - 1)
        while self._held_bytes > _HELD_BYTES and self._dropped < len(way) - 1:
            generation = way[self._dropped]
            if generation.data is not None:
                self._held_bytes -= len(generation.data)
                generation.data = None
            self._dropped += 1

    def _content(self, way: list[_Generation]) -> bytes:
        """Return the content of the last object on the way, made again where it was dropped."""
        last = way[-1]
        if last.data is not None:
            return last.data
        # The oldest are dropped first, so that none of the others on the way is left either.
        lost = [last.position]
        while self._pack.bases[lost[-1]] >= 0:
            lost.append(self._pack.bases[lost[-1]])
        data = self._pack.undeltified(lost.pop())
        while lost:
            data = self._applied(lost.pop(), data)
            self._count_made_again(data)
        last.data = data
        self._hold(way, data)
        return data

    def _applied(self, position: int, base: bytes) -> bytes:
        pack, result_bytes = self._pack, self._pack.sizes[position]
        delta = pack.deltas.pop(position, None)
        if delta is None:
            if max(len(base), result_bytes) > LARGE_BYTES:
                return apply_delta_in_pieces(base, pack.inflated(position), result_bytes=result_bytes)
            delta = decompress(pack.compressed(position))
        return apply_delta(base, delta, result_bytes=result_bytes)


def _holds_twice(pack: Pack, base_ids: set[bytes]) -> bool:
    """Return whether one of these objects is in the pack twice.

    Whoever reads a delta finds its base by the id, and may find the copy that is itself built on the delta: ``git
    index-pack`` up to 2.49 refuses such a pack, later ones accept it, and what reads it then never ends.
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
    """The deltas whose bases are given by id; packed, since a pack may have nothing else."""

    def __init__(self, pack: Pack) -> None:
        ids = bytes(pack.base_ids)
        keys = [ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES)]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self.base_ids: Final = set(keys)
        self._ids: Final = b"".join([keys[number] for number in order])
        self._positions: Final = array("I", [pack.based_by_id[number] for number in order])
        self._taken: Final = bytearray(len(order))
        self.left = len(order)

    def taken(self, base_id: bytes) -> list[int]:
        """Return the positions of the deltas on this base, once: an object that is in the pack twice gets none."""
        at = bisect_left(range(len(self._positions)), base_id, key=self._id)
        found = []
        while at < len(self._positions) and self._id(at) == base_id and not self._taken[at]:
            self._taken[at] = 1
            found.append(self._positions[at])
            at += 1
        self.left -= len(found)
        return found

    def _id(self, number: int) -> bytes:
        return self._ids[number * ID_BYTES : number * ID_BYTES + ID_BYTES]
