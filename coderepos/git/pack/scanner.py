"""Reads a pack stream once, as it arrives: every entry is inflated, checked and, where it is no delta, hashed."""

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
from coderepos.git.pack.delta import VARINT_BYTES, delta_sizes
from coderepos.git.pack.pack_file import (
    BLOB,
    CACHE_OVERHEAD_BYTES,
    ID_BYTES,
    OFS_DELTA,
    PIECE_BYTES,
    READ_BYTES,
    REF_DELTA,
    TREE,
    TYPE_NAMES,
    Pack,
)

_HEADER_BYTES: Final = 32  # longest entry header: ten bytes of size, then ten of offset or twenty of id
_PAUSE_ENTRIES: Final = 0x3F  # a mask: every 64


class PackScanner:
    """Reads one pack from a descriptor into a file.

    :param source: descriptor of the stream.
    :param pack: filled in as the stream is read; its file is empty.
    :param on_pause: called with the objects read and their total, before the first one, every few dozen, and at the
        end of the pack.
    :param on_links: called with position, type and content of every tree and commit that is no delta; without the
        content where it did not arrive at once.
    """

    def __init__(
        self,
        source: int,
        pack: Pack,
        limits: Limits,
        on_pause: Callable[[int, int], None] = lambda _done, _total: None,
        on_links: Callable[[int, int, bytes | None], None] = lambda _position, _kind, _data: None,
    ) -> None:
        self._source: Final = source
        self._limits: Final = limits
        self._on_pause: Final = on_pause
        self._on_links: Final = on_links
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
        """Read the stream to its end; deltas are not resolved yet.

        :raises RemoteProtocolError: the stream is no well-formed pack; ``reason`` says how.
        :raises LimitExceeded: a subclass that names the bound that was passed.
        """
        total = self._header()
        self._pack.expect(total)
        self._entries(total)
        self._trailer()
        self._on_pause(total, total)

    def _header(self) -> int:
        self._need(12)
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
        self._need(ID_BYTES + 1)
        rest = self._buffer[self._at :]
        if len(rest) < ID_BYTES:
            raise RemoteProtocolError(reason="pack ends early")
        if len(rest) > ID_BYTES:
            raise RemoteProtocolError(reason="bytes after the pack")
        self._digest.update(self._view[: self._at])
        if rest != self._digest.digest():
            raise RemoteProtocolError(reason="pack checksum")
        self._pack.trailer = rest
        # Only now: small deltas of large trees come before the blobs that pay for them.
        self._count(self._pack.result_bytes)

    def _entries(self, total: int) -> None:  # noqa: C901, PLR0912, PLR0915  a call for each entry costs too much
        """Read all entries, the common ones with one call of zlib and few of Python, since a pack has 100,000."""
        pack, limits = self._pack, self._limits
        ids, kinds, offsets = pack.ids, pack.kinds, pack.offsets
        add_header_length, add_kind, add_base = pack.header_lengths.append, kinds.append, pack.bases.append
        add_size, add_crc, add_offset = pack.sizes.append, pack.crcs.append, offsets.append
        on_links = self._on_links
        most_object_bytes, most_kept_bytes = limits.object_bytes, limits.delta_memory_bytes
        most_kept_object_bytes = most_kept_bytes // 2  # the rest is left to deltas
        buffer, view, start, base_offset = self._buffer, self._view, self._at, self._buffer_offset
        for position in range(total):
            if not position & _PAUSE_ENTRIES:
                self._on_pause(position, total)
            if len(buffer) - start < _HEADER_BYTES:
                self._at = start
                self._need(_HEADER_BYTES)
                buffer, view, start, base_offset = self._buffer, self._view, self._at, self._buffer_offset
            try:
                byte = buffer[start]
                kind, size, at = byte >> 4 & 7, byte & 15, start + 1
                if byte & 0x80:
                    byte = buffer[at]
                    size |= (byte & 0x7F) << 4
                    at += 1
                    if byte & 0x80:
                        size, at = _size(buffer, at, size)
                base = -1
                if kind == OFS_DELTA:
                    distance, at = _distance(buffer, at)
                    base = self._position_at(base_offset + start - distance)
                elif kind == REF_DELTA:
                    at += ID_BYTES
                    pack.based_by_id.append(position)
                    pack.base_ids.extend(buffer[at - ID_BYTES : at])
                elif kind not in TYPE_NAMES:
                    raise RemoteProtocolError(reason="type of an entry")
            except IndexError:
                raise RemoteProtocolError(reason="pack ends early") from None
            if at > len(buffer):
                raise RemoteProtocolError(reason="pack ends early")
            if size > most_object_bytes:
                raise ObjectTooLarge(figure=size, limit=most_object_bytes)
            pack.inflated_bytes += size
            if pack.inflated_bytes > self._inflated_allowed:
                self._count(0)
            add_header_length(at - start)
            stream = decompressobj()
            # What _inflated does, without the call.
            window = view[at : at + ((size >> 1) + 128 if size < PIECE_BYTES else PIECE_BYTES)]
            try:
                data = stream.decompress(window, (size if size < PIECE_BYTES else PIECE_BYTES) or 1)
            except ZlibError:
                raise RemoteProtocolError(reason="zlib stream of an entry") from None
            at += len(window) - len(stream.unused_data or stream.unconsumed_tail)
            crc = crc32(view[start:at])
            is_whole = len(data) == size and stream.eof
            if kind < OFS_DELTA:
                digest = sha1(b"%s %d\0%b" % (TYPE_NAMES[kind], size, data), usedforsecurity=False)
                if not is_whole:
                    self._at = at
                    crc = self._inflate_rest(stream, size - len(data), crc, digest.update)
                    buffer, view, at, base_offset = self._buffer, self._view, self._at, self._buffer_offset
                elif TREE <= kind <= BLOB and pack.kept_bytes + size + CACHE_OVERHEAD_BYTES <= most_kept_object_bytes:
                    pack.keep_object(position, data)
                ids[position * ID_BYTES : position * ID_BYTES + ID_BYTES] = digest.digest()
                if kind <= TREE:
                    on_links(position, kind, data if is_whole else None)
            else:
                is_kept = pack.kept_bytes + size + CACHE_OVERHEAD_BYTES <= most_kept_bytes
                if not is_whole:
                    pieces = [data]
                    self._at = at
                    sink = pieces.append if is_kept else _Head(pieces)
                    crc = self._inflate_rest(stream, size - len(data), crc, sink)
                    buffer, view, at, base_offset = self._buffer, self._view, self._at, self._buffer_offset
                    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                if is_kept:
                    pack.keep_delta(position, data)
                size = delta_sizes(data)[1]
                if size > most_object_bytes:
                    raise ObjectTooLarge(figure=size, limit=most_object_bytes)
                pack.result_bytes += size
                if base >= 0:
                    kind = kinds[base]
            add_crc(crc)
            add_kind(kind)
            add_base(base)
            add_size(size)
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

    def _inflated(self, stream: Any, most: int) -> bytes:
        """Return up to ``most`` further bytes of the stream at the reading position, and pass what was read for it."""
        # A narrow window, since zlib copies what it leaves of its input. At least one byte is allowed for, so that a
        # stream longer than its size shows.
        window = self._view[self._at : self._at + min((most >> 1) + 128, PIECE_BYTES)]
        try:
            piece: bytes = stream.decompress(window, min(most, PIECE_BYTES) or 1)
        except ZlibError:
            raise RemoteProtocolError(reason="zlib stream of an entry") from None
        self._at += len(window) - len(stream.unused_data or stream.unconsumed_tail)
        return piece

    def _inflate_rest(self, stream: Any, rest: int, crc: int, sink: Callable[[bytes], object]) -> int:
        """Hand exactly ``rest`` inflated bytes to ``sink`` and return the CRC32 with the bytes read for them."""
        while rest >= 0 and not stream.eof:
            if self._at == len(self._buffer):
                self._more()
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

    def _count(self, inflated_bytes: int) -> None:
        self._pack.inflated_bytes += inflated_bytes
        if self._pack.inflated_bytes > self._inflated_allowed:
            self._inflated_allowed = self._limits.inflated_bytes(self._wire_bytes)
            if self._pack.inflated_bytes > self._inflated_allowed:
                raise InflatedTooLarge(figure=self._pack.inflated_bytes, limit=self._inflated_allowed)

    def _need(self, count: int) -> None:
        """Have ``count`` bytes at the reading position, or all that are left of the stream."""
        while len(self._buffer) - self._at < count and not self._ended:
            self._more()

    def _more(self) -> None:
        """Read the next bytes of the stream, write them to the file and put them behind those not yet passed."""
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


def _size(buffer: bytes, at: int, size: int) -> tuple[int, int]:
    """Return the size of an entry whose eleven lowest bits are read, and where its header goes on."""
    shift = 11
    while True:
        byte = buffer[at]
        at += 1
        size |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return size, at
        shift += 7
        if shift > 7 * VARINT_BYTES - 7:
            raise RemoteProtocolError(reason="size of an entry")


def _distance(buffer: bytes, at: int) -> tuple[int, int]:
    """Return how far before an entry its base starts, and where the entry's header goes on."""
    distance, end = -1, at + VARINT_BYTES + 1
    while at < end:
        byte = buffer[at]
        at += 1
        distance = (distance + 1 << 7) | (byte & 0x7F)
        if not byte & 0x80:
            return distance, at
    raise RemoteProtocolError(reason="offset of a delta base")


class _Head:
    """A sink that keeps no more than the sizes at the start of a delta; the rest is read again when it is needed."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces: Final = pieces

    def __call__(self, piece: bytes) -> None:
        if len(self._pieces[0]) < 2 * VARINT_BYTES:
            self._pieces[0] += piece[: 2 * VARINT_BYTES]
