"""A pack file and what is known of its entries: gitformat-pack(5).

It is kept in packed columns, since a pack may have hundreds of thousands of entries.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from mmap import mmap
from typing import Final
from zlib import decompressobj

COMMIT, TREE, BLOB, TAG, OFS_DELTA, REF_DELTA = 1, 2, 3, 4, 6, 7

TYPE_NAMES: Final = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}

ID_BYTES: Final = 20

READ_BYTES: Final = 1 << 18
"""Bytes asked from the pipe at once."""

PIECE_BYTES: Final = 1 << 20
"""Most inflated bytes that are handled at once."""


@dataclass(slots=True)
class Pack:
    """What is known of every entry, in columns by its position in the stream."""

    file_descriptor: int
    """Of the pack file, open for reading."""

    offsets: array[int] = field(default_factory=lambda: array("Q"))
    """Where each entry starts in the file; one more, the trailer's, at the end."""

    header_lengths: bytearray = field(default_factory=bytearray)
    """Bytes from an entry's start to its zlib stream."""

    kinds: bytearray = field(default_factory=bytearray)
    """Type of each object; that of the whole family for a delta, once it is resolved."""

    sizes: array[int] = field(default_factory=lambda: array("Q"))
    """Bytes of each object, of the result for a delta."""

    crcs: array[int] = field(default_factory=lambda: array("I"))
    """CRC32 of each entry as it is in the file."""

    ids: bytearray | mmap = field(default_factory=bytearray)
    """Object ids, 20 bytes each; zeros for a delta until it is resolved."""

    bases: array[int] = field(default_factory=lambda: array("i"))
    """Position of a delta's base; -1 for an object that is no delta, or whose base is only known by its id."""

    base_ids: bytearray = field(default_factory=bytearray)
    """Ids of the bases that are given by id, 20 bytes each."""

    based_by_id: array[int] = field(default_factory=lambda: array("I"))
    """Positions of the deltas on them."""

    deltas: dict[int, bytes] = field(default_factory=dict)
    """Inflated deltas by position, as far as the memory for them went."""

    trailer: bytes = b""
    """SHA-1 of the pack."""

    inflated_bytes: int = 0
    """What all entries inflate to, results of deltas included."""

    @property
    def size_bytes(self) -> int:
        """Size of the pack file."""
        return self.offsets[-1] + ID_BYTES

    def __len__(self) -> int:
        return len(self.kinds)

    def object_id(self, position: int) -> bytes:
        """Return the id of an object."""
        return bytes(self.ids[position * ID_BYTES : position * ID_BYTES + ID_BYTES])

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


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes to a descriptor."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
