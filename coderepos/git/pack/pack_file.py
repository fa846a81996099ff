"""A pack file and what is known of its entries: gitformat-pack(5).

It is kept in packed columns, since a pack may have hundreds of thousands of entries.
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
"""Id of the tree without entries, which Git knows without having it."""

CACHE_OVERHEAD_BYTES: Final = 150
"""Fixed overhead charged per cached object: a bytes object and its entry in a dictionary."""

READ_BYTES: Final = 1 << 18
"""Bytes asked from the pipe at once."""

PIECE_BYTES: Final = 1 << 20
"""Most inflated bytes that are handled at once."""


class Pack:
    """What is known of every entry, in columns by its position in the stream.

    :param file_descriptor: of the pack file, open for reading and writing.
    """

    def __init__(self, file_descriptor: int) -> None:
        self.file_descriptor: Final = file_descriptor
        self.offsets: Final = array("Q")
        """Where each entry starts in the file; one more, the trailer's, at the end."""
        self.header_lengths: Final = bytearray()
        """Bytes from an entry's start to its zlib stream."""
        self.kinds: Final = bytearray()
        """Type of each object, that of its base for a delta; ``REF_DELTA`` until a base given by id is known."""
        self.sizes: Final = array("Q")
        """Bytes of each object, of the result for a delta."""
        self.crcs: Final = array("I")
        """CRC32 of each entry as it is in the file."""
        self.ids = mmap(-1, 1)
        """Object ids, 20 bytes each; zeros for a delta until it is resolved. Forked processes share them."""
        self.capacity = 0
        """How many objects the pack says to hold."""
        self.bases: Final = array("i")
        """Position of a delta's base; -1 for an object that is no delta, or whose base is only known by its id."""
        self.base_ids: Final = bytearray()
        """Ids of the bases that are given by id, 20 bytes each."""
        self.based_by_id: Final = array("I")
        """Positions of the deltas on them."""
        self.deltas: Final[dict[int, bytes]] = {}
        """Inflated deltas by position, as far as the memory for them went."""
        self.kept_objects: Final[dict[int, bytes]] = {}
        """Trees and blobs that are no deltas, by position, as far as that memory went: bases and what is written."""
        self.kept_bytes = 0
        """Memory that both take."""
        self.trailer = b""
        """SHA-1 of the pack."""
        self.inflated_bytes = 0
        """What all entries inflate to; once the pack is read, with what the deltas make."""
        self.largest_bytes = 0
        """Size of the largest object so far."""
        self.result_bytes = 0
        """What the deltas make."""

    @property
    def size_bytes(self) -> int:
        """Size of the pack file."""
        return self.offsets[-1] + ID_BYTES

    def __len__(self) -> int:
        return len(self.kinds)

    def expect(self, objects: int) -> None:
        """Make room for the ids of so many objects."""
        self.ids = mmap(-1, objects * ID_BYTES or 1)
        self.capacity = objects

    def object_id(self, position: int) -> bytes:
        """Return the id of an object."""
        return self.ids[position * ID_BYTES : position * ID_BYTES + ID_BYTES]

    def keep_delta(self, position: int, delta: bytes) -> None:
        """Keep an inflated delta in memory."""
        self.deltas[position] = delta
        self.kept_bytes += len(delta) + CACHE_OVERHEAD_BYTES

    def keep_object(self, position: int, data: bytes) -> None:
        """Keep the content of an object in memory that is no delta."""
        self.kept_objects[position] = data
        self.kept_bytes += len(data) + CACHE_OVERHEAD_BYTES

    def forget(self, positions: range) -> None:
        """Free what is kept of these; whoever needs one reads it again from the file."""
        for kept in (self.deltas, self.kept_objects):
            for position in positions:
                data = kept.pop(position, None)
                if data is not None:
                    self.kept_bytes -= len(data) + CACHE_OVERHEAD_BYTES

    def undeltified(self, position: int) -> bytes:
        """Return the content of an object that is no delta."""
        data = self.kept_objects.get(position)
        if data is None:
            # The scan has proved the size.
            data = decompress(self.compressed(position), bufsize=self.sizes[position] or 1)
        return data

    def compressed(self, position: int) -> bytes:
        """Return the zlib stream of an entry, read from the file."""
        start = self.offsets[position] + self.header_lengths[position]
        return os.pread(self.file_descriptor, self.offsets[position + 1] - start, start)

    def inflated(self, position: int) -> Iterator[bytes]:
        """Yield the content of an entry in pieces, read from the file; the scan has proved its size."""
        start, end = self.offsets[position] + self.header_lengths[position], self.offsets[position + 1]
        stream = decompressobj()
        for at in range(start, end, READ_BYTES):
            rest = os.pread(self.file_descriptor, min(READ_BYTES, end - at), at)
            while rest:
                yield stream.decompress(rest, PIECE_BYTES)
                rest = stream.unconsumed_tail
