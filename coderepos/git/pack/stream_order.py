"""Resolves the deltas of a stretch of a pack one after the other, as they stand in the stream.

Git writes each family of deltas close together, bases first, so that nearly every base was made a moment ago and is
still in memory. This takes a fifth less time than to walk the families one by one
(:mod:`coderepos.git.pack.delta_tree`), which works for any order.
"""

from __future__ import annotations

from collections import deque
from hashlib import sha1
from typing import Final
from zlib import decompress

from coderepos.git.pack.delta import STEP_BYTES, apply_delta
from coderepos.git.pack.object_links import Links
from coderepos.git.pack.pack_file import ID_BYTES, TREE, TYPE_NAMES, Pack

_HELD_BYTES: Final = 8 * 10**6
_SLACK_WORK: Final = 40 * 10**6
_TYPE_HEADS: Final = {kind: name + b" %d\0" for kind, name in TYPE_NAMES.items()}


class OutOfOrder(Exception):
    """The bases are so far away that walking the families takes less time; never leaves the build child."""


class StreamOrder:
    """Resolves stretches one after the other, and holds the objects that were made last for the next one.

    What has to be made again costs in all no more than the deltas themselves do, but for a fixed amount: work is
    counted in bytes, see :data:`~coderepos.git.pack.delta.STEP_BYTES`.

    :param links: gets what the trees and commits that are made here name.
    """

    def __init__(self, pack: Pack, links: Links) -> None:
        self._pack: Final = pack
        self._links: Final = links
        self._recent: Final[dict[int, bytes]] = {}
        """Content by position."""
        self._order: Final[deque[int]] = deque()
        """Their positions, oldest first: to find the first key of a dictionary walks through those removed before."""
        self._held_bytes = 0
        self._allowed_work = _SLACK_WORK

    def resolve(self, positions: range) -> None:
        """Fill in the ids of the deltas among ``positions``; all bases are given by offset, and no object is large.

        :raises OutOfOrder: too much has to be made again.
        :raises RemoteProtocolError: a delta does not fit its base.
        """
        pack, recent, hold, add_links = self._pack, self._recent, self._hold, self._links.add
        bases, kinds, sizes, ids, deltas = pack.bases, pack.kinds, pack.sizes, pack.ids, pack.deltas
        for position in positions:
            base_position = bases[position]
            if base_position < 0:
                continue
            base = recent.get(base_position)
            if base is None:
                base = self._made_again(base_position)
            delta = deltas.pop(position, None)
            if delta is None:
                delta = decompress(pack.compressed(position))
            data = apply_delta(base, delta, result_bytes=sizes[position])
            kind = kinds[position]
            digest = sha1(_TYPE_HEADS[kind] % len(data), usedforsecurity=False)
            digest.update(data)
            ids[position * ID_BYTES : position * ID_BYTES + ID_BYTES] = digest.digest()
            if kind <= TREE:
                add_links(kind, data)
            hold(position, data)

    def _hold(self, position: int, data: bytes) -> None:
        """Keep an object, and drop the oldest ones past the budget."""
        recent, order = self._recent, self._order
        recent[position] = data
        order.append(position)
        self._held_bytes += len(data)
        self._allowed_work += len(data) + STEP_BYTES
        while self._held_bytes > _HELD_BYTES:
            self._held_bytes -= len(recent.pop(order.popleft()))

    def _made_again(self, position: int) -> bytes:
        """Return an object that is not held any more, or never was."""
        pack, sizes, lost = self._pack, self._pack.sizes, []
        base: bytes | None = None
        while base is None:
            lost.append(position)
            # Twice: holding it will allow for as much again.
            self._allowed_work -= 2 * (sizes[position] + STEP_BYTES)
            if self._allowed_work < 0:
                raise OutOfOrder
            position = pack.bases[position]
            if position < 0:
                root = lost.pop()
                base = pack.undeltified(root)
                self._hold(root, base)
            else:
                base = self._recent.get(position)
        data = base
        while lost:
            position = lost.pop()
            data = apply_delta(data, decompress(pack.compressed(position)), result_bytes=sizes[position])
            self._hold(position, data)
        return data
