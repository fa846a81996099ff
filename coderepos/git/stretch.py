"""Resolves the deltas of a stretch of a pack one after the other, as they stand in the stream.

Git writes each family of deltas close together, bases first, so that nearly every base was made a moment ago and is
still in memory. This takes a third less time than to walk the families one by one (:mod:`coderepos.git.families`),
which works for any order.
"""

from __future__ import annotations

from hashlib import sha1
from zlib import decompress

from coderepos.git.delta import apply_delta
from coderepos.git.pack import ID_BYTES, TYPE_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from coderepos.git.pack import Pack

_HELD_BYTES: Final = 8 * 10**6
_TYPE_HEADS: Final = {kind: name + b" %d\0" for kind, name in TYPE_NAMES.items()}


class OutOfOrder(Exception):
    """The bases are so far away that walking the families takes less time; never leaves the build child."""


def resolve_stretch(pack: Pack, positions: range) -> None:
    """Fill in the ids of the deltas among ``positions``, whose bases are all given by offset and none of them large.

    :raises OutOfOrder: more objects have to be made again than there are positions.
    :raises RemoteProtocolError: a delta does not fit its base.
    """
    held = _Held(pack, most_made_again=len(positions))
    bases, kinds, sizes, ids, deltas = pack.bases, pack.kinds, pack.sizes, pack.ids, pack.deltas
    recent, hold = held.recent, held.hold
    for position in positions:
        base_position = bases[position]
        if base_position < 0:
            continue
        base = recent.get(base_position)
        if base is None:
            base = held.made_again(base_position)
        delta = deltas.pop(position, None)
        if delta is None:
            delta = decompress(pack.compressed(position))
        data = apply_delta(base, delta, result_bytes=sizes[position])
        digest = sha1(_TYPE_HEADS[kinds[position]] % len(data), usedforsecurity=False)
        digest.update(data)
        ids[position * ID_BYTES : position * ID_BYTES + ID_BYTES] = digest.digest()
        hold(position, data)


class _Held:
    """The objects that were made last, as many as the memory for them takes."""

    def __init__(self, pack: Pack, *, most_made_again: int) -> None:
        self.recent: Final[dict[int, bytes]] = {}
        """Content by position, oldest first."""
        self._pack: Final = pack
        self._bytes = 0
        self._left = most_made_again

    def hold(self, position: int, data: bytes) -> None:
        """Keep an object, and drop the oldest ones past the budget."""
        recent = self.recent
        recent[position] = data
        self._bytes += len(data)
        while self._bytes > _HELD_BYTES:
            oldest = next(iter(recent))
            self._bytes -= len(recent.pop(oldest))

    def made_again(self, position: int) -> bytes:
        """Return an object that is not held any more, or never was."""
        pack, lost = self._pack, [position]
        while (base := pack.bases[lost[-1]]) >= 0 and base not in self.recent:
            lost.append(base)
        self._left -= len(lost)
        if self._left < 0:
            raise OutOfOrder
        if base < 0:
            position = lost.pop()
            data = decompress(pack.compressed(position), bufsize=pack.sizes[position] or 1)
            self.hold(position, data)
        else:
            data = self.recent[base]
        for position in reversed(lost):
            data = apply_delta(data, decompress(pack.compressed(position)), result_bytes=pack.sizes[position])
            self.hold(position, data)
        return data
