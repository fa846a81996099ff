"""Reads a pack stream once, as it arrives: every entry is inflated, checked and, where it is no delta, hashed."""

from __future__ import annotations

import os
import struct
import time
from bisect import bisect_left
from collections.abc import Callable
from hashlib import sha1
from typing import TYPE_CHECKING, Final
from zlib import crc32, decompressobj
from zlib import error as ZlibError  # noqa: N812 - an exception's name

from coderepos.exceptions import (
    InflatedTooLarge,
    ObjectTooLarge,
    RemoteProtocolError,
    RepositoryTooLarge,
    TooManyObjects,
)
from coderepos.git.delta import VARINT_BYTES, delta_sizes
from coderepos.git.limits import Limits
from coderepos.git.pack import ID_BYTES, OFS_DELTA, PIECE_BYTES, READ_BYTES, REF_DELTA, TYPE_NAMES, Pack, write_all

if TYPE_CHECKING:
    from zlib import _Decompress

_HEADER_BYTES: Final = 32  # longest entry header: ten bytes of size, then ten of offset or twenty of id
_DELTA_OVERHEAD_BYTES: Final = 150  # of a small bytes object and its place in the table
_NO_ID: Final = bytes(ID_BYTES)
_PROGRESS_SECONDS: Final = 0.25


class PackScanner:
    """Reads one pack from a descriptor into a file.

    :param source: descriptor of the stream.
    :param file_descriptor: of the empty pack file, open for reading and writing.
    :param on_progress: called with the objects read and their total, a few times a second.
    """

    def __init__(
        self,
        source: int,
        file_descriptor: int,
        limits: Limits,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._source: Final = source
        self._limits: Final = limits
        self._on_progress: Final = on_progress
        self._pack: Final = Pack(file_descriptor)
        self._ids: Final = bytearray()
        self._pack.ids = self._ids
        self._digest: Final = sha1(usedforsecurity=False)
        self._buffer = b""
        self._view = memoryview(b"")
        self._at = 0
        self._buffer_offset = 0
        self._wire_bytes = 0
        self._inflated_allowed = 0
        self._result_bytes = 0
        self._delta_bytes = 0
        self._ended = False

    def scan(self) -> Pack:
        """Read the stream to its end and return what it holds; deltas are not resolved yet.

        :raises RemoteProtocolError: the stream is no well-formed pack; ``reason`` says how.
        :raises LimitExceeded: the leaf that names the bound that was passed.
        """
        pack, total = self._pack, self._header()
        next_progress = 0.0
        for position in range(total):
            if not position & 0xFF and time.monotonic() >= next_progress:
                self._on_progress(position, total)
                next_progress = time.monotonic() + _PROGRESS_SECONDS
            self._entry(position)
        pack.offsets.append(self._buffer_offset + self._at)
        self._trailer()
        self._on_progress(total, total)
        return pack

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
        self._count(self._result_bytes)

    def _entry(self, position: int) -> None:
        pack, limits = self._pack, self._limits
        if len(self._buffer) - self._at < _HEADER_BYTES:
            self._need(_HEADER_BYTES)
        start = self._at
        offset = self._buffer_offset + start
        try:
            kind, size, base = self._entry_header(offset)
        except IndexError:
            raise RemoteProtocolError(reason="pack ends early") from None
        if size > limits.object_bytes:
            raise ObjectTooLarge(figure=size, limit=limits.object_bytes)
        self._count(size)
        pack.offsets.append(offset)
        pack.header_lengths.append(self._at - start)
        pack.kinds.append(kind)
        stream = decompressobj()
        piece = self._inflated(stream, size)
        crc = crc32(self._view[start : self._at])
        if kind < OFS_DELTA:
            digest = sha1(b"%s %d\0%b" % (TYPE_NAMES[kind], size, piece), usedforsecurity=False)
            pack.crcs.append(self._inflate_rest(stream, size - len(piece), crc, digest.update))
            self._ids.extend(digest.digest())
            pack.sizes.append(size)
            pack.bases.append(-1)
            return
        self._ids.extend(_NO_ID)
        if isinstance(base, int):
            pack.bases.append(base)
        else:
            pack.bases.append(-1)
            pack.base_ids += base
            pack.based_by_id.append(position)
        pieces = [piece]
        is_kept = self._delta_bytes + size + _DELTA_OVERHEAD_BYTES <= limits.delta_memory_bytes
        pack.crcs.append(
            self._inflate_rest(stream, size - len(piece), crc, pieces.append if is_kept else _Head(pieces))
        )
        delta = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        result_bytes = delta_sizes(delta)[1]
        if result_bytes > limits.object_bytes:
            raise ObjectTooLarge(figure=result_bytes, limit=limits.object_bytes)
        self._result_bytes += result_bytes
        pack.sizes.append(result_bytes)
        if is_kept:
            pack.deltas[position] = delta
            self._delta_bytes += size + _DELTA_OVERHEAD_BYTES

    def _entry_header(self, offset: int) -> tuple[int, int, int | bytes]:
        """Return type, size and base (position or id) of the entry at the reading position, and pass its header."""
        buffer, at = self._buffer, self._at
        byte = buffer[at]
        at += 1
        kind, size, shift = byte >> 4 & 7, byte & 15, 4
        while byte & 0x80:
            if shift > 7 * VARINT_BYTES - 7:
                raise RemoteProtocolError(reason="size of an entry")
            byte = buffer[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
        base: int | bytes = -1
        if kind == OFS_DELTA:
            byte = buffer[at]
            at += 1
            distance = byte & 0x7F
            for _ in range(VARINT_BYTES):
                if not byte & 0x80:
                    break
                byte = buffer[at]
                at += 1
                distance = (distance + 1 << 7) | (byte & 0x7F)
            else:
                raise RemoteProtocolError(reason="offset of a delta base")
            base = self._position_at(offset - distance)
        elif kind == REF_DELTA:
            base = buffer[at : at + ID_BYTES]
            at += ID_BYTES
            if at > len(buffer):
                raise RemoteProtocolError(reason="pack ends early")
        elif kind not in TYPE_NAMES:
            raise RemoteProtocolError(reason="type of an entry")
        self._at = at
        return kind, size, base

    def _position_at(self, offset: int) -> int:
        offsets = self._pack.offsets
        position = bisect_left(offsets, offset) if offset > 0 else len(offsets)
        if position == len(offsets) or offsets[position] != offset:
            raise RemoteProtocolError(reason="offset of a delta base")
        return position

    def _inflated(self, stream: _Decompress, most: int) -> bytes:
        """Return up to ``most`` further bytes of the stream at the reading position, and pass what was read for it."""
        # A narrow window, since zlib copies what it leaves of its input. At least one byte is allowed for, so that a
        # stream longer than its size shows.
        window = self._view[self._at : self._at + min((most >> 1) + 128, PIECE_BYTES)]
        try:
            piece = stream.decompress(window, min(most, PIECE_BYTES) or 1)
        except ZlibError:
            raise RemoteProtocolError(reason="zlib stream of an entry") from None
        self._at += len(window) - len(stream.unused_data or stream.unconsumed_tail)
        return piece

    def _inflate_rest(self, stream: _Decompress, rest: int, crc: int, sink: Callable[[bytes], object]) -> int:
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


class _Head:
    """A sink that keeps no more than the sizes at the start of a delta; the rest is read again when it is needed."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces: Final = pieces

    def __call__(self, piece: bytes) -> None:
        if len(self._pieces[0]) < 2 * VARINT_BYTES:
            self._pieces[0] += piece[: 2 * VARINT_BYTES]
