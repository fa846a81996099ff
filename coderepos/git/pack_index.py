"""Writes and asks the index of a pack: version 2, gitformat-pack(5)."""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from hashlib import sha1
from itertools import accumulate
from typing import Final

from coderepos.git.pack import ID_BYTES, Pack

_MAGIC: Final = b"\xfftOc\x00\x00\x00\x02"
_LARGE: Final = 0x80000000


class PackIndex:
    """The objects of a pack whose deltas are resolved, in the order of their ids."""

    def __init__(self, pack: Pack) -> None:
        self._pack: Final = pack
        ids = bytes(pack.ids)
        keys = [ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES)]
        self.order: Final = sorted(range(len(pack)), key=keys.__getitem__)
        self._sorted_ids: Final = [keys[position] for position in self.order]

    def position(self, object_id: bytes) -> int | None:
        """Return where in the pack the object of this id (20 bytes) is, or ``None``."""
        at = bisect_left(self._sorted_ids, object_id)
        if at < len(self._sorted_ids) and self._sorted_ids[at] == object_id:
            return self.order[at]
        return None

    def to_bytes(self) -> bytes:
        """Return the index file, the same bytes as ``git index-pack`` writes."""
        pack, order = self._pack, self.order
        per_first_byte = [0] * 256
        for one in self._sorted_ids:
            per_first_byte[one[0]] += 1
        small, large = array("I"), array("Q")
        for position in order:
            offset = pack.offsets[position]
            if offset >= _LARGE:
                small.append(_LARGE | len(large))
                large.append(offset)
            else:
                small.append(offset)
        content = b"".join(
            (
                _MAGIC,
                struct.pack(">256I", *accumulate(per_first_byte)),
                b"".join(self._sorted_ids),
                _big_endian(array("I", map(pack.crcs.__getitem__, order))),
                _big_endian(small),
                _big_endian(large),
                pack.trailer,
            )
        )
        return content + sha1(content, usedforsecurity=False).digest()


def _big_endian(column: array[int]) -> bytes:
    if sys.byteorder == "little":
        column.byteswap()
    return column.tobytes()
