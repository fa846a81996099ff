"""Finds the objects of a pack by their ids, and writes its index: version 2, gitformat-pack(5)."""

from __future__ import annotations

import struct
import sys
from array import array
from hashlib import sha1
from itertools import accumulate

from coderepos.git.pack import ID_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from coderepos.git.pack import Pack

_MAGIC: Final = b"\xfftOc\x00\x00\x00\x02"
_LARGE: Final = 0x80000000


def positions_by_id(pack: Pack) -> dict[bytes, int]:
    """Return where in the pack each object is, by its id; the first place of one that is there twice.

    :param pack: whose deltas are resolved.
    """
    ids = _ids(pack)
    return dict(zip(reversed(ids), reversed(range(len(ids))), strict=True))


def index_size(pack: Pack) -> int:
    """Return the size in bytes of the index that :func:`index_of` makes."""
    large = sum(offset >= _LARGE for offset in pack.offsets[:-1]) if pack.offsets[-1] >= _LARGE else 0
    return len(_MAGIC) + 256 * 4 + len(pack) * (ID_BYTES + 8) + large * 8 + 2 * ID_BYTES


def index_of(pack: Pack) -> bytes:
    """Return the index file of a pack whose deltas are resolved, the same bytes as ``git index-pack`` writes."""
    ids = _ids(pack)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    first_bytes = pack.ids[: len(ids) * ID_BYTES : ID_BYTES]
    offsets = list(map(pack.offsets.__getitem__, order))
    large: list[int] = []
    if pack.offsets[-1] >= _LARGE:
        large = [offset for offset in offsets if offset >= _LARGE]
        numbers = iter(range(_LARGE, _LARGE + len(large)))
        offsets = [offset if offset < _LARGE else next(numbers) for offset in offsets]
    content = b"".join(
        (
            _MAGIC,
            struct.pack(">256I", *accumulate(map(first_bytes.count, range(256)))),
            b"".join(map(ids.__getitem__, order)),
            _big_endian(array("I", map(pack.crcs.__getitem__, order))),
            _big_endian(array("I", offsets)),
            _big_endian(array("Q", large)),
            pack.trailer,
        )
    )
    return content + sha1(content, usedforsecurity=False).digest()


def _ids(pack: Pack) -> list[bytes]:
    ids = pack.ids[: len(pack) * ID_BYTES]
    return [ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES)]


def _big_endian(column: array[int]) -> bytes:
    if sys.byteorder == "little":
        column.byteswap()
    return column.tobytes()
