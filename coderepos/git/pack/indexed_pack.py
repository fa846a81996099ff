"""A pack whose entries are looked up through its index and read when they are needed: gitformat-pack(5), version 2.

It takes the place of a scan where pack and index are those that a build child wrote before. Nothing is believed all the
same: where an entry starts and what it is shows when it is read, and each object that is used is compared with its id.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from hashlib import sha1
from typing import Final
from zlib import decompressobj
from zlib import error as ZlibError  # noqa: N812

from coderepos.exceptions import ObjectTooLarge, StoreDamaged
from coderepos.git.limits import Limits
from coderepos.git.pack.delta import delta_sizes
from coderepos.git.pack.delta_tree import DeltaTree
from coderepos.git.pack.index import FAN_OUT, LARGE, MAGIC
from coderepos.git.pack.pack_file import ID_BYTES, OFS_DELTA, REF_DELTA, TYPE_NAMES, Pack
from coderepos.git.pack.varints import VARINT_BYTES, read_base_distance, read_entry_size

_HEADER_BYTES: Final = 2 * VARINT_BYTES + ID_BYTES
"""Longest header of an entry, with what tells its base."""

_DELTA_HEAD_BYTES: Final = 2 * VARINT_BYTES
_DEFLATED_BYTES: Final = 1_024
"""What is inflated for the head of a delta: the codes of a block, which come first, take up to 300 bytes."""

_PACK_START: Final = 12
_ROW_BYTES: Final = ID_BYTES + 8
_LARGE_BYTES: Final = 8


class IndexedPack(Pack):
    """A pack of which an entry is read when :class:`PositionsById` gives its position.

    Until then its type is 0.

    :param file_descriptor: of the pack file, open for reading.
    :param pack_bytes: its size.
    :param index: content of its index.
    :raises StoreDamaged: the index is not whole, or not that of this pack.
    """

    def __init__(self, file_descriptor: int, pack_bytes: int, index: bytes, limits: Limits) -> None:
        super().__init__(file_descriptor)
        self._max_object_bytes: Final = limits.object_bytes
        count = _object_count(index)
        if _objects_of(os.pread(file_descriptor, _PACK_START, 0)) != count:
            raise StoreDamaged  # Git would find none of the objects that the index leaves out
        end = pack_bytes - ID_BYTES
        self.trailer = os.pread(file_descriptor, ID_BYTES, max(end, 0))
        if self.trailer != index[-2 * ID_BYTES : -ID_BYTES]:
            raise StoreDamaged
        at = len(MAGIC) + FAN_OUT.size
        self._fan_out: Final = (0, *FAN_OUT.unpack_from(index, len(MAGIC)))
        self._ids: Final = index[at : at + ID_BYTES * count]
        offsets = _offsets(index, count)
        self._rows: Final = sorted(range(count), key=offsets.__getitem__)
        """Rows of the index, by position."""
        self._positions: Final = array("I", bytes(4 * count))
        """Positions by row."""
        for position, row in enumerate(self._rows):
            self._positions[row] = position
        self.offsets.extend([offsets[row] for row in self._rows])
        self.offsets.append(end)
        if self.offsets[0] != _PACK_START or any(map(int.__ge__, self.offsets, self.offsets[1:])):
            raise StoreDamaged
        self.total = count
        self.kinds.extend(bytes(count))
        self.header_lengths.extend(bytes(count))
        self.sizes.extend(array("Q", bytes(8 * count)))
        self.bases.extend(array("i", b"\xff" * 4 * count))
        self._delta_bytes: Final[dict[int, int]] = {}

    def object_id(self, position: int) -> bytes:
        """Return the id of an object."""
        return self._id_of(self._rows[position])

    def find(self, object_id: bytes) -> int | None:
        """Return the position of an object, ``None`` if it is not in the pack; of one that is there twice, the first.

        The entry, and those that it is based on, are read.

        :raises StoreDamaged: there is no such entry.
        :raises ObjectTooLarge: it is larger than the limit.
        """
        position = self._position_of(object_id)
        if position is not None:
            self._read(position)
        return position

    def undeltified(self, position: int) -> bytes:
        """Return the content of an object that is not a delta.

        :raises StoreDamaged: it has not the size that its header says.
        """
        return self._inflate(position, self.sizes[position])

    def delta(self, position: int) -> bytes:
        """Return an inflated delta.

        :raises StoreDamaged: it has not the size that its header says.
        """
        return self._inflate(position, self._delta_bytes[position])

    def _id_of(self, row: int) -> bytes:
        return self._ids[row * ID_BYTES : (row + 1) * ID_BYTES]

    def _position_of(self, object_id: bytes) -> int | None:
        first, last = self._fan_out[object_id[0]], self._fan_out[object_id[0] + 1]
        row = bisect_left(range(last), object_id, lo=first, key=self._id_of)
        if row == last or self._id_of(row) != object_id:
            return None
        return self._positions[row]

    def _read(self, position: int) -> None:
        """Read the header of an entry and of those that it is based on, down to the first that was read before."""
        kinds, chain = self.kinds, list[int]()
        try:
            while not kinds[position]:
                base = self._read_header(position)
                if base >= 0:
                    chain.append(position)
                    if len(chain) > len(self):
                        raise StoreDamaged  # deltas in a circle
                    position = base
        except (IndexError, ZlibError) as error:
            raise StoreDamaged from error
        for delta in chain:
            kinds[delta] = kinds[position]

    def _read_header(self, position: int) -> int:
        """Read the header of an entry, and return the position of its base, -1 where it is not a delta."""
        start = self.offsets[position]
        head = os.pread(self.file_descriptor, _HEADER_BYTES, start)
        kind, size, at, base = head[0] >> 4 & 7, head[0] & 15, 1, -1
        if head[0] & 0x80:
            size |= (head[1] & 0x7F) << 4
            at = 2
            if head[1] & 0x80:
                size, at = read_entry_size(head, at, size)
        if kind == OFS_DELTA:
            distance, at = read_base_distance(head, at)
            base = self._position_at(start - distance)
        elif kind == REF_DELTA:
            found = self._position_of(head[at : at + ID_BYTES])
            at += ID_BYTES
            if found is None:
                raise StoreDamaged
            base = found
        elif kind not in TYPE_NAMES:
            raise StoreDamaged
        self.header_lengths[position] = at
        self._limit(size)
        if base >= 0:
            self._delta_bytes[position] = size
            self.bases[position] = base
            size = self._result_bytes(start + at)
            self._limit(size)
        else:
            self.kinds[position] = kind
        self.sizes[position] = size
        self.largest_bytes = max(self.largest_bytes, size)
        return base

    def _position_at(self, offset: int) -> int:
        position = bisect_left(self.offsets, offset, 0, len(self))
        if position == len(self) or self.offsets[position] != offset:
            raise StoreDamaged
        return position

    def _result_bytes(self, start: int) -> int:
        head = os.pread(self.file_descriptor, _DEFLATED_BYTES, start)
        return delta_sizes(decompressobj().decompress(head, _DELTA_HEAD_BYTES))[1]

    def _limit(self, size_bytes: int) -> None:
        if size_bytes > self._max_object_bytes:
            raise ObjectTooLarge(figure=size_bytes, limit=self._max_object_bytes)

    def _inflate(self, position: int, size_bytes: int) -> bytes:
        stream = decompressobj()
        try:
            data = stream.decompress(self.compressed(position), size_bytes + 1)
        except ZlibError as error:
            raise StoreDamaged from error
        if len(data) != size_bytes or not stream.eof:
            raise StoreDamaged
        return data


class PositionsById(Mapping[bytes, int]):
    """The positions of the objects of a pack by their ids; an entry is read when it is looked up."""

    def __init__(self, pack: IndexedPack) -> None:
        self._pack: Final = pack

    def __getitem__(self, object_id: bytes) -> int:
        """Return the position of an object.

        :raises KeyError: it is not in the pack.
        :raises StoreDamaged: there is no such entry.
        """
        position = self._pack.find(object_id)
        if position is None:
            raise KeyError(object_id)
        return position

    def __iter__(self) -> Iterator[bytes]:
        """Yield the ids in the order of the pack."""
        return map(self._pack.object_id, range(len(self._pack)))

    def __len__(self) -> int:
        return len(self._pack)


class CheckedObjects(DeltaTree):
    """The objects of a pack that was not scanned: each is compared with its id."""

    def __init__(self, pack: IndexedPack, limits: Limits) -> None:
        super().__init__(pack, limits)
        self._indexed: Final = pack

    def objects(self, positions: set[int]) -> Iterator[tuple[int, bytes]]:
        """Yield position and content of these objects, as :meth:`DeltaTree.objects` does.

        :raises StoreDamaged: one is not that of its id.
        :raises RemoteProtocolError: a delta does not fit its base.
        :raises InflatedTooLarge: too much had to be rebuilt.
        """
        pack = self._indexed
        for position, data in super().objects(positions):
            digest = sha1(b"%s %d\0" % (TYPE_NAMES[pack.kinds[position]], len(data)), usedforsecurity=False)
            digest.update(data)
            if digest.digest() != pack.object_id(position):
                raise StoreDamaged
            yield position, data


def _objects_of(header: bytes) -> int | None:
    """Return the number of objects in the header of a pack; ``None`` if this is not such a header."""
    if len(header) < _PACK_START or not header.startswith(b"PACK"):
        return None
    return int.from_bytes(header[8:])


def _object_count(index: bytes) -> int:
    """Return the number of objects in an index that is whole.

    :raises StoreDamaged: it is not.
    """
    fixed_bytes = len(MAGIC) + FAN_OUT.size + 2 * ID_BYTES
    if len(index) < fixed_bytes or not index.startswith(MAGIC):
        raise StoreDamaged
    fan_out = FAN_OUT.unpack_from(index, len(MAGIC))
    count: int = fan_out[-1]
    table_bytes = len(index) - fixed_bytes - count * _ROW_BYTES
    if not count or table_bytes < 0 or table_bytes % _LARGE_BYTES or any(map(int.__gt__, fan_out, fan_out[1:])):
        raise StoreDamaged
    if sha1(index[:-ID_BYTES], usedforsecurity=False).digest() != index[-ID_BYTES:]:
        raise StoreDamaged
    return count


def _offsets(index: bytes, count: int) -> array[int]:
    """Return where the entries start, in the order of the index."""
    at = len(MAGIC) + FAN_OUT.size + (ID_BYTES + 4) * count
    offsets = array("I", index[at : at + 4 * count])
    if sys.byteorder == "little":
        offsets.byteswap()
    if max(offsets) < LARGE:
        return offsets
    large = index[at + 4 * count : -2 * ID_BYTES]
    table = struct.unpack(f">{len(large) // _LARGE_BYTES}Q", large)
    try:
        return array("Q", (table[offset - LARGE] if offset >= LARGE else offset for offset in offsets))
    except (IndexError, OverflowError) as error:
        raise StoreDamaged from error
