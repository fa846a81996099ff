"""Decodes compressed response bodies piece by piece (content codings, RFC 9110, section 8.4.1).

Requests accept ``identity`` only, but some servers and proxies compress every response, and curl, and so git, accepts
that.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

from coderepos.exceptions import RemoteProtocolError, RemoteUnreachable

IDENTITY: Final = "identity"
"""The coding that requests accept: none."""

_WBITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

CODINGS: Final = (IDENTITY, *_WBITS)
"""Content codings that can be read."""

PIECE_BYTES: Final = 65_536
"""Most bytes that are inflated at once."""

MEMBER_OVERHEAD_BYTES: Final = 512
"""Fixed overhead charged per member of a gzip stream: small members cost time."""

_GZIP_MAGIC: Final = b"\x1f\x8b"


class InflatedBody:
    """Inflates a compressed body; bytes beyond its compressed size are charged too, which ends a decompression bomb.

    :param coding: one of :data:`CODINGS` except :data:`IDENTITY`.
    :param body: returns the next compressed bytes, none at the end of the body.
    :param before_reuse: called before the buffer of the last bytes is used again.
    :param count: called with bytes to charge; the compressed ones are charged as they arrive.
    """

    def __init__(
        self,
        coding: str,
        body: Callable[[], memoryview],
        before_reuse: Callable[[], None],
        count: Callable[[int], None],
    ) -> None:
        self._wbits: Final = _WBITS[coding]
        self._is_gzip: Final = coding != "deflate"
        self._body: Final = body
        self._before_reuse: Final = before_reuse
        self._count: Final = count
        self._stream = zlib.decompressobj(self._wbits)
        self._compressed: bytes | memoryview = b""
        self._is_between_members = False
        self._may_hold_more = False
        self._compressed_bytes = self._inflated_bytes = self._charged_bytes = 0

    def __call__(self) -> memoryview:
        """Return the next inflated bytes, none at the end of the body.

        :raises RemoteProtocolError: the body is not in this coding, or goes on after its end.
        :raises RemoteUnreachable: the body ends before the stream does.
        :raises GitError: it inflates to more than the meter allows.
        """
        self._before_reuse()
        while self._compressed or self._may_hold_more or self._read():
            if self._is_between_members:
                self._begin_member()
            try:
                piece = self._stream.decompress(self._compressed, PIECE_BYTES)
            except zlib.error:
                raise RemoteProtocolError(reason="content encoding") from None
            self._may_hold_more = len(piece) == PIECE_BYTES and not self._stream.eof
            self._is_between_members = self._stream.eof
            self._compressed = self._rest_of_member() if self._stream.eof else self._stream.unconsumed_tail
            if piece:
                self._charge(len(piece))
                return memoryview(piece)
        return memoryview(b"")

    def _read(self) -> bool:
        """Read more of the body, and return whether there was more.

        :raises RemoteUnreachable: it ends too early.
        """
        self._compressed = self._body()
        self._compressed_bytes += len(self._compressed)
        if not self._compressed and not self._is_between_members:
            raise RemoteUnreachable
        return bool(self._compressed)

    def _rest_of_member(self) -> bytes:
        """Return what follows a member of a gzip stream: nothing or the next member (RFC 1952, section 2.2).

        :raises RemoteProtocolError: something else follows.
        """
        rest = self._stream.unused_data
        if rest and not (self._is_gzip and _GZIP_MAGIC.startswith(rest[: len(_GZIP_MAGIC)])):
            raise RemoteProtocolError(reason="content encoding")
        return rest

    def _begin_member(self) -> None:
        if not self._is_gzip:
            raise RemoteProtocolError(reason="content encoding")
        self._count(MEMBER_OVERHEAD_BYTES)
        self._stream = zlib.decompressobj(self._wbits)

    def _charge(self, size: int) -> None:
        self._inflated_bytes += size
        surplus_bytes = self._inflated_bytes - self._compressed_bytes
        if surplus_bytes > self._charged_bytes:
            self._count(surplus_bytes - self._charged_bytes)
            self._charged_bytes = surplus_bytes
