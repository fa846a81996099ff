"""Reads a pack stream once, as it arrives: every entry is inflated and checked and, unless it is a delta, hashed."""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from collections.abc import Callable
from hashlib import sha1
from typing import Any, Final
from zlib import crc32, decompressobj
from zlib import error as ZlibError  # noqa: N812 - an exception's name

from coderepos.exceptions import (
    InflatedTooLarge,
    ObjectTooLarge,
    RemoteProtocolError,
    RepositoryTooLarge,
    TooManyObjects,
)
from coderepos.git.descriptors import write_all
from coderepos.git.limits import Limits
from coderepos.git.pack.delta import delta_sizes
from coderepos.git.pack.pack_file import (
    BLOB,
    ID_BYTES,
    OFS_DELTA,
    PIECE_BYTES,
    READ_BYTES,
    REF_DELTA,
    TREE,
    TYPE_NAMES,
    Pack,
)
from coderepos.git.pack.varints import VARINT_BYTES, read_base_distance, read_entry_size

_HEADER_BYTES: Final = 32  # more than any entry header: ten bytes of size, then eleven of offset or twenty of id
_PROGRESS_MASK: Final = 0x3F  # every 64 entries


class PackScanner:
    """Reads one pack from a descriptor into a file.

    :param source: descriptor of the stream.
    :param pack: filled in as the stream is read; its file is empty.
    :param on_progress: called with the number of objects read and their total, before the first one, every few dozen,
        and at the end of the pack.
    :param on_tree_or_commit: called with position, type and content of every tree and commit that is not a delta; the
        content is ``None`` where it did not arrive at once.
    """

    def __init__(
        self,
        source: int,
        pack: Pack,
        limits: Limits,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
        on_tree_or_commit: Callable[[int, int, bytes | None], None] = lambda _position, _kind, _data: None,
    ) -> None:
        self._source: Final = source
        self._limits: Final = limits
        self._on_progress: Final = on_progress
        self._on_tree_or_commit: Final = on_tree_or_commit
        self._pack: Final = pack
        self._digest: Final = sha1(usedforsecurity=False)
        self._buffer = b""
        self._view = memoryview(b"")
        self._at = 0
        self._buffer_offset = 0
        self._wire_bytes = 0
        self._inflated_allowed = 0
        self._ended = False

    def scan(self) -> None:
        """Read the stream to its end, without resolving deltas.

        :raises RemoteProtocolError: the stream is not a well-formed pack; ``reason`` says why.
        :raises LimitExceeded: the subclass for the limit that was exceeded.
        """
        total = self._header()
        self._pack.allocate(total, cache_bytes=self._limits.delta_memory_bytes)
        self._entries(total)
        self._trailer()
        self._on_progress(total, total)

    def _header(self) -> int:
        self._require(12)
        head = self._buffer[:12]
        if len(head) < 12:
            raise RemoteProtocolError(reason="pack ends early")
        magic, version, total = struct.unpack(">4sII", head)
        if magic != b"PACK" or version not in (2, 3):
            raise RemoteProtocolError(reason="no pack")
        if total > self._limits.objects:
            raise TooManyObjects(figure=total, limit=self._limits.objects)
        self._at = 12
        self._pack.offsets.append(12)
        return int(total)

    def _trailer(self) -> None:
        self._require(ID_BYTES + 1)
        rest = self._buffer[self._at :]
        if len(rest) < ID_BYTES:
            raise RemoteProtocolError(reason="pack ends early")
        if len(rest) > ID_BYTES:
            raise RemoteProtocolError(reason="bytes after the pack")
        self._digest.update(self._view[: self._at])
        if rest != self._digest.digest():
            raise RemoteProtocolError(reason="pack checksum")
        self._pack.trailer = rest
        # Only now: small deltas of large trees come before the blobs whose bytes raise the limit.
        self._count_inflated(self._pack.result_bytes)

    def _entries(self, total: int) -> None:  # noqa: C901, PLR0912, PLR0915  a call per entry costs too much
        """Read all entries; a common one takes one call of zlib and few of Python, since a pack may have 100,000."""
        pack, limits, new_digest = self._pack, self._limits, sha1(usedforsecurity=False).copy
        ids, kinds, offsets = pack.ids, pack.kinds, pack.offsets
        add_header_length, add_kind, add_base = pack.header_lengths.append, kinds.append, pack.bases.append
        add_size, add_crc, add_offset = pack.sizes.append, pack.crcs.append, offsets.append
        add_cache_end = pack.cache_ends.append
        on_tree_or_commit = self._on_tree_or_commit
        max_object_bytes, delta_cache_bytes = limits.object_bytes, limits.delta_memory_bytes
        object_cache_bytes = delta_cache_bytes // 2  # the rest is for deltas
        buffer, view, start, base_offset = self._buffer, self._view, self._at, self._buffer_offset
        for position in range(total):
            if not position & _PROGRESS_MASK:
                self._on_progress(position, total)
            if len(buffer) - start < _HEADER_BYTES:
                self._at = start
                self._require(_HEADER_BYTES)
                buffer, view, start, base_offset = self._buffer, self._view, self._at, self._buffer_offset
            try:
                byte = buffer[start]
                kind, size, at = byte >> 4 & 7, byte & 15, start + 1
                if byte & 0x80:
                    byte = buffer[at]
                    size |= (byte & 0x7F) << 4
                    at += 1
                    if byte & 0x80:
                        size, at = read_entry_size(buffer, at, size)
                base = -1
                if kind == OFS_DELTA:
                    distance, at = read_base_distance(buffer, at)
                    base = self._position_at(base_offset + start - distance)
                elif kind == REF_DELTA:
                    at += ID_BYTES
                    pack.ref_deltas.append(position)
                    pack.base_ids.extend(buffer[at - ID_BYTES : at])
                elif kind not in TYPE_NAMES:
                    raise RemoteProtocolError(reason="type of an entry")
            except IndexError:
                raise RemoteProtocolError(reason="pack ends early") from None
            if at > len(buffer):
                raise RemoteProtocolError(reason="pack ends early")
            if size > max_object_bytes:
                raise ObjectTooLarge(figure=size, limit=max_object_bytes)
            pack.inflated_bytes += size
            if pack.inflated_bytes > self._inflated_allowed:
                self._count_inflated(0)
            add_header_length(at - start)
            stream = decompressobj()
            # The same as _inflated(), without the call.
            window = view[at : at + ((size >> 1) + 128 if size < PIECE_BYTES else PIECE_BYTES)]
            try:
                data = stream.decompress(window, (size if size < PIECE_BYTES else PIECE_BYTES) or 1)
            except ZlibError:
                raise RemoteProtocolError(reason="zlib stream of an entry") from None
            at += len(window) - len(stream.unused_data or stream.unconsumed_tail)
            crc = crc32(view[start:at])
            is_whole = len(data) == size and stream.eof
            if kind < OFS_DELTA:
                digest = new_digest()
                digest.update(b"%s %d\0" % (TYPE_NAMES[kind], size))
                digest.update(data)
                if not is_whole:
                    self._at = at
                    crc = self._inflate_rest(stream, size - len(data), crc, digest.update)
                    buffer, view, at, base_offset = self._buffer, self._view, self._at, self._buffer_offset
                elif TREE <= kind <= BLOB and pack.cached_bytes + size <= pack.evicted_bytes + object_cache_bytes:
                    pack.cache(data)
                ids[position * ID_BYTES : position * ID_BYTES + ID_BYTES] = digest.digest()
                if kind <= TREE:
                    on_tree_or_commit(position, kind, data if is_whole else None)
            else:
                is_cached = pack.cached_bytes + size <= pack.evicted_bytes + delta_cache_bytes
                if not is_whole:
                    pieces = [data]
                    self._at = at
                    sink = pieces.append if is_cached else _Head(pieces)
                    crc = self._inflate_rest(stream, size - len(data), crc, sink)
                    buffer, view, at, base_offset = self._buffer, self._view, self._at, self._buffer_offset
                    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                if is_cached:
                    pack.cache(data)
                size = delta_sizes(data)[1]
                if size > max_object_bytes:
                    raise ObjectTooLarge(figure=size, limit=max_object_bytes)
                pack.result_bytes += size
                pack.delta_count += 1
                if base >= 0:
                    kind = kinds[base]
            add_crc(crc)
            add_kind(kind)
            add_base(base)
            add_size(size)
            add_cache_end(pack.cached_bytes)
            if size > pack.largest_bytes:
                pack.largest_bytes = size
            start = at
            add_offset(base_offset + at)
        self._at = start

    def _position_at(self, offset: int) -> int:
        offsets, count = self._pack.offsets, len(self._pack)
        position = bisect_left(offsets, offset, 0, count) if offset > 0 else count
        if position == count or offsets[position] != offset:
            raise RemoteProtocolError(reason="offset of a delta base")
        return position

    def _inflated(self, stream: Any, max_bytes: int) -> bytes:
        """Return up to ``max_bytes`` further bytes of the zlib stream, and advance past the input they took."""
        # A narrow window, since zlib copies the input that it does not use. At least one byte is requested, so that a
        # stream that is longer than its declared size shows.
        window = self._view[self._at : self._at + min((max_bytes >> 1) + 128, PIECE_BYTES)]
        try:
            piece: bytes = stream.decompress(window, min(max_bytes, PIECE_BYTES) or 1)
        except ZlibError:
            raise RemoteProtocolError(reason="zlib stream of an entry") from None
        self._at += len(window) - len(stream.unused_data or stream.unconsumed_tail)
        return piece

    def _inflate_rest(self, stream: Any, rest: int, crc: int, sink: Callable[[bytes], object]) -> int:
        """Pass exactly ``rest`` inflated bytes to ``sink``; return the CRC32, updated with the input they took."""
        while rest >= 0 and not stream.eof:
            if self._at == len(self._buffer):
                self._read_more()
                if self._ended:
                    raise RemoteProtocolError(reason="pack ends early")
            start = self._at
            piece = self._inflated(stream, rest)
            crc = crc32(self._view[start : self._at], crc)
            rest -= len(piece)
            sink(piece)
        if rest:
            raise RemoteProtocolError(
                reason="entry shorter than its size" if rest > 0 else "entry longer than its size"
            )
        return crc

    def _count_inflated(self, inflated_bytes: int) -> None:
        self._pack.inflated_bytes += inflated_bytes
        if self._pack.inflated_bytes > self._inflated_allowed:
            self._inflated_allowed = self._limits.inflated_bytes(self._wire_bytes)
            if self._pack.inflated_bytes > self._inflated_allowed:
                raise InflatedTooLarge(figure=self._pack.inflated_bytes, limit=self._inflated_allowed)

    def _require(self, count: int) -> None:
        """Buffer at least ``count`` unread bytes, or all that the stream still has."""
        while len(self._buffer) - self._at < count and not self._ended:
            self._read_more()

    def _read_more(self) -> None:
        """Read the next bytes of the stream, write them to the file and append them to the unread ones."""
        chunk = os.read(self._source, READ_BYTES)
        if not chunk:
            self._ended = True
            return
        self._wire_bytes += len(chunk)
        if self._wire_bytes > self._limits.wire_bytes:
            raise RepositoryTooLarge(figure=self._wire_bytes, limit=self._limits.wire_bytes)
        write_all(self._pack.file_descriptor, chunk)
        self._digest.update(self._view[: self._at])
        rest = self._buffer[self._at :]
        self._buffer_offset += self._at
        self._buffer = rest + chunk if rest else chunk
        self._view = memoryview(self._buffer)
        self._at = 0


class _Head:
    """A sink that keeps only the sizes at the start of a delta; the rest is read again from the file when needed."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces: Final = pieces

    def __call__(self, piece: bytes) -> None:
        if len(self._pieces[0]) < 2 * VARINT_BYTES:
            self._pieces[0] += piece[: 2 * VARINT_BYTES]
