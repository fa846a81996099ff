"""Maps the ids of a pack to positions, and creates its index: version 2, gitformat-pack(5)."""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from hashlib import sha1
from typing import Final

from coderepos.git.pack.pack_file import ID_BYTES, Pack

MAGIC: Final = b"\xfftOc\x00\x00\x00\x02"
LARGE: Final = 0x80000000
"""Least offset that is in the table of 64-bit offsets."""

FAN_OUT: Final = struct.Struct(">256I")

_ID: Final = range(ID_BYTES)
_OFFSET: Final = range(20, 28)
_CRC: Final = range(28, 32)
_ROW_BYTES: Final = 32


def positions_by_id(pack: Pack) -> dict[bytes, int]:
    """Return the position of each object by its id; of an object that is there twice, the first one.

    :param pack: must have its deltas resolved.
    """
    ids = _ids(pack)
    return dict(zip(reversed(ids), reversed(range(len(ids))), strict=True))


def index_size(pack: Pack) -> int:
    """Return the size in bytes of the index that :func:`index_of` returns."""
    large = sum(offset >= LARGE for offset in pack.offsets[:-1]) if pack.offsets[-1] >= LARGE else 0
    return len(MAGIC) + FAN_OUT.size + len(pack) * (ID_BYTES + 8) + large * 8 + 2 * ID_BYTES


def index_of(pack: Pack) -> bytes:
    """Return the index file of a pack whose deltas are resolved, byte for byte as ``git index-pack`` writes it.

    Whole rows are sorted. Sorting only the ids and reordering the other columns after them would miss the processor's
    cache at every step, which takes nearly twice as long.
    """
    count = len(pack)
    rows = _split(_interleaved(pack), _ROW_BYTES)
    rows.sort()
    fan_out = FAN_OUT.pack(*(bisect_left(rows, bytes([byte])) for byte in range(1, 256)), count)
    table = b"".join(rows)
    content = b"".join(
        (
            MAGIC,
            fan_out,
            _column(table, _ID, count),
            _column(table, _CRC, count),
            *_offset_tables(array("Q", _column(table, _OFFSET, count))),
            pack.trailer,
        )
    )
    return content + sha1(content, usedforsecurity=False).digest()


def _ids(pack: Pack) -> list[bytes]:
    return _split(pack.ids[: len(pack) * ID_BYTES], ID_BYTES)


def _split(data: bytes | bytearray, size_bytes: int) -> list[bytes]:
    return list(struct.Struct(f"{size_bytes}s" * (len(data) // size_bytes)).unpack(data))


def _interleaved(pack: Pack) -> bytearray:
    """Return a row per object: id, offset and CRC32, the numbers in big-endian order."""
    count = len(pack)
    rows = bytearray(_ROW_BYTES * count)
    columns = (
        (_ID, pack.ids[: count * ID_BYTES]),
        (_OFFSET, _big_endian(pack.offsets[:count])),
        (_CRC, _big_endian(pack.crcs[:])),
    )
    for place, column in columns:
        width = len(place)
        for byte in range(width):
            rows[place.start + byte :: _ROW_BYTES] = column[byte::width]
    return rows


def _column(table: bytes, place: range, count: int) -> bytearray:
    width = len(place)
    column = bytearray(width * count)
    for byte in range(width):
        column[byte::width] = table[place.start + byte :: _ROW_BYTES]
    return column


def _offset_tables(offsets: array[int]) -> Iterator[bytes]:
    """Yield the table of 31-bit offsets and, where there are larger ones, the table of 64-bit offsets it refers to.

    :param offsets: in big-endian order.
    """
    if sys.byteorder == "little":
        offsets.byteswap()
    if max(offsets, default=0) < LARGE:
        yield _big_endian(array("I", offsets))
        return
    large = array("Q", (offset for offset in offsets if offset >= LARGE))
    numbers = iter(range(LARGE, LARGE + len(large)))
    yield _big_endian(array("I", (offset if offset < LARGE else next(numbers) for offset in offsets)))
    yield _big_endian(large)


def _big_endian(column: array[int]) -> bytes:
    if sys.byteorder == "little":
        column.byteswap()
    return column.tobytes()
