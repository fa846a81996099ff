"""A pack file and a table of its entries, which the scan and the resolution of deltas fill in: gitformat-pack(5).

The table is made of packed columns, since a pack may have hundreds of thousands of entries. A *position* is the number
of an entry in the order of the stream.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from mmap import mmap
from typing import Final
from zlib import decompress, decompressobj

COMMIT, TREE, BLOB, TAG, OFS_DELTA, REF_DELTA = 1, 2, 3, 4, 6, 7

TYPE_NAMES: Final = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}

ID_BYTES: Final = 20

EMPTY_TREE: Final = bytes.fromhex("4b825dc642cb6eb9a060e54bf8d69288fbee4904")
"""Id of the tree without entries, which Git knows without storing it."""

CACHE_OVERHEAD_BYTES: Final = 150
"""Fixed overhead charged per cached object: a bytes object and its entry in a dictionary."""

READ_BYTES: Final = 1 << 18
"""Most bytes that are read at once."""

PIECE_BYTES: Final = 1 << 20
"""Most inflated bytes that are handled at once."""


class Pack:
    """The table of entries, one column per attribute, and a cache of object contents.

    :param file_descriptor: of the pack file, open for reading and writing.
    """

    def __init__(self, file_descriptor: int) -> None:
        self.file_descriptor: Final = file_descriptor
        self.offsets: Final = array("Q")
        """Where each entry starts in the file, and at the end where the trailer starts."""
        self.header_lengths: Final = bytearray()
        """Length of each entry's header, which the zlib stream follows."""
        self.kinds: Final = bytearray()
        """Type of each object; a delta has that of its base, or ``REF_DELTA`` until a base given by id is found."""
        self.sizes: Final = array("Q")
        """Size of each object; for a delta that of its result."""
        self.crcs: Final = array("I")
        """CRC32 of each entry as it is stored in the file."""
        self.ids = mmap(-1, 1)
        """Object ids, 20 bytes each; zeros for a delta until it is resolved. Forked processes share them."""
        self.total = 0
        """Number of objects according to the header of the pack."""
        self.bases: Final = array("i")
        """Position of each delta's base; -1 where there is no base, or where only its id is known."""
        self.base_ids: Final = bytearray()
        """Base ids of the deltas in :attr:`ref_deltas`, 20 bytes each."""
        self.ref_deltas: Final = array("I")
        """Positions of the deltas whose bases are given by id."""
        self.deltas: Final[dict[int, bytes]] = {}
        """Cached deltas, inflated, by position."""
        self.cached_objects: Final[dict[int, bytes]] = {}
        """Cached trees and blobs that are not deltas, by position: they serve as bases and are written to disk."""
        self.cached_bytes = 0
        """Memory that both caches take."""
        self.trailer = b""
        """SHA-1 of the pack."""
        self.inflated_bytes = 0
        """Size of all entries, inflated; once the pack is read, :attr:`result_bytes` is included."""
        self.largest_bytes = 0
        """Size of the largest object read so far."""
        self.result_bytes = 0
        """Size of the results of all deltas read so far."""

    @property
    def size_bytes(self) -> int:
        """Size of the pack file."""
        return self.offsets[-1] + ID_BYTES

    def __len__(self) -> int:
        return len(self.kinds)

    def allocate(self, objects: int) -> None:
        """Allocate the ids of this many objects."""
        self.ids = mmap(-1, objects * ID_BYTES or 1)
        self.total = objects

    def object_id(self, position: int) -> bytes:
        """Return the id of an object."""
        return self.ids[position * ID_BYTES : position * ID_BYTES + ID_BYTES]

    def cache_delta(self, position: int, delta: bytes) -> None:
        """Cache an inflated delta."""
        self.deltas[position] = delta
        self.cached_bytes += len(delta) + CACHE_OVERHEAD_BYTES

    def cache_object(self, position: int, data: bytes) -> None:
        """Cache the content of an object that is not a delta."""
        self.cached_objects[position] = data
        self.cached_bytes += len(data) + CACHE_OVERHEAD_BYTES

    def evict(self, positions: range) -> None:
        """Drop these from the caches; they are read again from the file when needed."""
        for cache in (self.deltas, self.cached_objects):
            for position in positions:
                data = cache.pop(position, None)
                if data is not None:
                    self.cached_bytes -= len(data) + CACHE_OVERHEAD_BYTES

    def undeltified(self, position: int) -> bytes:
        """Return the content of an object that is not a delta."""
        data = self.cached_objects.get(position)
        if data is None:
            # The scan has checked the size.
            data = decompress(self.compressed(position), bufsize=self.sizes[position] or 1)
        return data

    def compressed(self, position: int) -> bytes:
        """Return the zlib stream of an entry, read from the file."""
        start = self.offsets[position] + self.header_lengths[position]
        return os.pread(self.file_descriptor, self.offsets[position + 1] - start, start)

    def inflated(self, position: int) -> Iterator[bytes]:
        """Yield the content of an entry in pieces, read from the file; the scan has checked its size."""
        start, end = self.offsets[position] + self.header_lengths[position], self.offsets[position + 1]
        stream = decompressobj()
        for at in range(start, end, READ_BYTES):
            rest = os.pread(self.file_descriptor, min(READ_BYTES, end - at), at)
            while rest:
                yield stream.decompress(rest, PIECE_BYTES)
                rest = stream.unconsumed_tail
