"""A pack file and a table of its entries, which the scan and the resolution of deltas fill in: gitformat-pack(5).

The table is made of packed columns, since a pack may have hundreds of thousands of entries. A *position* is the number
of an entry in the order of the stream.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from mmap import MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Final
from zlib import decompress, decompressobj

COMMIT, TREE, BLOB, TAG, OFS_DELTA, REF_DELTA = 1, 2, 3, 4, 6, 7

TYPE_NAMES: Final = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}

ID_BYTES: Final = 20

EMPTY_TREE: Final = bytes.fromhex("4b825dc642cb6eb9a060e54bf8d69288fbee4904")
"""Id of the tree without entries, which Git knows without storing it."""

READ_BYTES: Final = 1 << 18
"""Most bytes that are read at once."""

PIECE_BYTES: Final = 1 << 20
"""Most inflated bytes that are handled at once."""


class Pack:
    """The table of entries, one column per attribute, and a cache of what they contain.

    The cache is one block of memory, which a forked process only reads. Objects in their stead would have reference
    counts, and their pages would be copied.

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
        self.cached_bytes = 0
        """Size of all that was ever cached: deltas, and trees and blobs to be used as bases or written to disk."""
        self.evicted_bytes = 0
        """How much of it, from its start, is cached no longer."""
        self.cache_ends: Final = array("Q", [0])
        """Where what was cached of each entry ends, after where the first one starts; of some that is nothing."""
        self._cache = mmap(-1, 1)
        self.trailer = b""
        """SHA-1 of the pack."""
        self.inflated_bytes = 0
        """Size of all entries, inflated; once the pack is read, :attr:`result_bytes` is included."""
        self.largest_bytes = 0
        """Size of the largest object read so far."""
        self.result_bytes = 0
        """Size of the results of all deltas read so far."""
        self.delta_count = 0
        """Number of these deltas."""

    @property
    def size_bytes(self) -> int:
        """Size of the pack file."""
        return self.offsets[-1] + ID_BYTES

    def __len__(self) -> int:
        return len(self.kinds)

    def allocate(self, objects: int, *, cache_bytes: int) -> None:
        """Allocate the ids of this many objects, and the cache; pages that are never written take no memory."""
        self.ids = mmap(-1, objects * ID_BYTES or 1)
        self.total = objects
        self._cache = _private_memory(cache_bytes or 1)

    def object_id(self, position: int) -> bytes:
        """Return the id of an object."""
        return self.ids[position * ID_BYTES : position * ID_BYTES + ID_BYTES]

    def cache(self, data: bytes) -> None:
        """Cache the content, or the inflated delta, of the entry that is being read."""
        self._cache.write(data)
        self.cached_bytes += len(data)

    def evict(self, end: int) -> None:
        """Drop the entries before this position from the cache; they are read again from the file when needed."""
        rest = self._cache[self.cache_ends[end] - self.evicted_bytes : self.cached_bytes - self.evicted_bytes]
        self._cache = _private_memory(len(self._cache))
        self._cache.write(rest)
        self.evicted_bytes = self.cache_ends[end]

    def undeltified(self, position: int) -> bytes:
        """Return the content of an object that is not a delta."""
        # The scan has checked the size.
        return self._cached(position) or decompress(self.compressed(position), bufsize=self.sizes[position] or 1)

    def delta(self, position: int) -> bytes:
        """Return an inflated delta."""
        return self._cached(position) or decompress(self.compressed(position))

    def _cached(self, position: int) -> bytes:
        """Return what is cached of an entry."""
        start = self.cache_ends[position] - self.evicted_bytes
        return self._cache[start : self.cache_ends[position + 1] - self.evicted_bytes] if start >= 0 else b""

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


def _private_memory(size_bytes: int) -> mmap:
    memory = mmap(-1, size_bytes, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    # Fewer page faults; not every kernel has huge pages.
    with suppress(OSError):
        memory.madvise(MADV_HUGEPAGE)
    return memory
