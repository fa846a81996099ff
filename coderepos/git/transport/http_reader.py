"""Reads HTTP/1.1 responses (RFC 9112) strictly, out of one buffer.

Lines end in CRLF, one framing is allowed per body, and everything besides a body is bounded. A
response that two readers could understand differently is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from coderepos.exceptions import RemoteProtocolError, RemoteUnreachable

READ_BYTES: Final = 262_144
"""Size of the buffer: most bytes that are read from the socket at once."""

HEAD_BYTES: Final = 65_536
"""Most bytes of status line and headers of a response, and of its trailers."""

HEADERS: Final = 100
"""Most headers of a response, and most trailers."""

INTERIM_RESPONSES: Final = 16
"""Most interim responses (1xx) before the final one."""

CHUNK_LINE_BYTES: Final = 1_024
"""Longest line before a chunk: its size and extensions."""

CHUNK_OVERHEAD_BYTES: Final = 64
"""Fixed overhead charged per chunk: small chunks cost time."""

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?\Z")
_HEADER_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_CONTROL: Final = re.compile(rb"[^\t -~\x80-\xff]")
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t -~\x80-\xff]*)?\Z")
_NEXT_CHUNK: Final = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})\r\n")
"""End of a chunk and size line of the next one, in their usual form."""

_LENGTH: Final = re.compile(r"[0-9]{1,18}\Z")

_ENDLESS: Final = 1 << 62


class ResponseHead:
    """Status and headers of one response.

    :param headers: by their lower-case names; values of repeated ones are joined by commas (RFC 9110, 5.3).
    """

    __slots__ = ("closes_connection", "headers", "is_http_1_0", "status")

    def __init__(self, minor_version: bytes, status: int, headers: dict[str, str]) -> None:
        self.is_http_1_0: Final = minor_version == b"0"
        """Whether it is HTTP/1.0."""
        self.status: Final = status
        self.headers: Final = headers
        options = headers.get("connection", "").lower().split(",")
        self.closes_connection: Final = self.is_http_1_0 or "close" in (option.strip() for option in options)
        """Whether the server will close the connection after this response."""

    @property
    def media_type(self) -> str:
        """Media type in lower case and without parameters, such as ``text/html``; empty if there is none.

        One that is there twice, from a server and a proxy in front of it, counts as one.
        """
        value = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        kinds = {kind.strip() for kind in value.split(",")}
        return kinds.pop() if len(kinds) == 1 else value


class HttpReader:
    """Reads the responses of one connection, one after the other.

    :param receive_into: reads the next bytes into a buffer and returns their number, 0 at the end of the connection.
    :param count: called with the overhead bytes to charge per chunk.
    """

    def __init__(self, receive_into: Callable[[memoryview], int], count: Callable[[int], None]) -> None:
        self.has_received = False
        """Whether anything arrived since the last :meth:`reset`."""
        self.before_receive: Callable[[], None] | None = None
        """Called before the buffer is used again."""
        self._receive_into: Final = receive_into
        self._count: Final = count
        self._buffer: Final = bytearray(READ_BYTES)
        self._view: Final = memoryview(self._buffer)
        self._at = self._end = 0
        self._left_bytes = 0
        self._is_chunked = self._is_in_chunks = self._ends_with_connection = False
        self._closes_connection = True

    def reset(self) -> None:
        """Discard what is left of the previous response; to be called before a request is sent."""
        self._at = self._end = self._left_bytes = 0
        self._is_chunked = self.has_received = False
        self.before_receive = None

    @property
    def is_reusable(self) -> bool:
        """Whether the response is complete, nothing follows it, and the server keeps the connection open."""
        return not (self._left_bytes or self._is_chunked or self._closes_connection or self._at < self._end)

    @property
    def has_unread(self) -> bool:
        """Whether bytes arrived that were not read yet."""
        return self._at < self._end

    def head(self) -> ResponseHead:
        """Read the next response up to its body; interim responses are skipped.

        :raises RemoteProtocolError: it is malformed or too long.
        :raises RemoteUnreachable: the connection ends.
        """
        for _ in range(1 + INTERIM_RESPONSES):
            head = self._one_head()
            if head.status >= 200 or head.status == 101:
                self._closes_connection = head.closes_connection
                return head
        raise _malformed()

    def expect_body(self, head: ResponseHead) -> None:
        """Prepare to read the body of a response with status 200.

        :raises RemoteProtocolError: its length is given in no unambiguous way.
        """
        coding, length = head.headers.get("transfer-encoding"), head.headers.get("content-length")
        self._is_chunked, self._is_in_chunks = coding is not None, False
        self._ends_with_connection = coding is None and length is None
        if coding is not None:
            if coding.lower() != "chunked" or length is not None or head.is_http_1_0:
                raise _malformed()
            self._left_bytes = 0
        elif length is not None:
            if not _LENGTH.match(length):
                raise _malformed()
            self._left_bytes = int(length)
        else:
            self._left_bytes, self._closes_connection = _ENDLESS, True

    def body(self) -> memoryview:
        """Return the next bytes of the body, none at its end; they are valid until :attr:`before_receive` is called.

        :raises RemoteProtocolError: trailers or the line before a chunk are too long or malformed.
        :raises RemoteUnreachable: the connection ends before the body does, or a chunk is malformed.
        """
        if not self._left_bytes and self._is_chunked:
            self._next_chunk()
        if not self._left_bytes:
            return self._view[:0]
        if self._at == self._end and not self._receive():
            if not self._ends_with_connection:
                raise RemoteUnreachable
            self._left_bytes = 0
        start = self._at
        self._at = min(self._end, start + self._left_bytes)
        self._left_bytes -= self._at - start
        return self._view[start : self._at]

    def reuse(self) -> None:
        """Announce that the bytes returned so far are no longer valid."""
        if self.before_receive is not None:
            self.before_receive()

    def _one_head(self) -> ResponseHead:
        left_bytes = HEAD_BYTES
        line = self._line(left_bytes)
        found = _STATUS_LINE.match(line)
        if found is None or _CONTROL.search(line):
            raise _malformed()
        return ResponseHead(found[1], int(found[2]), self._headers(left_bytes - len(line)))

    def _headers(self, left_bytes: int) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(1 + HEADERS):
            line = self._line(left_bytes)
            if not line:
                return headers
            left_bytes -= len(line)
            name_bytes, colon, value_bytes = line.partition(b":")
            # A folded line begins with white space, which no name does.
            if not colon or not _HEADER_NAME.match(name_bytes) or _CONTROL.search(value_bytes):
                break
            name, value = name_bytes.decode("ascii").lower(), value_bytes.strip(b"\t ").decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        raise _malformed()

    def _next_chunk(self) -> None:
        if self._is_in_chunks and (found := _NEXT_CHUNK.match(self._buffer, self._at, self._end)):
            self._at = found.end()
        else:
            if self._is_in_chunks and self._line(0):
                raise RemoteUnreachable
            self._is_in_chunks = True
            found = _CHUNK_LINE.match(self._line(CHUNK_LINE_BYTES))
            if found is None:
                # A response that was cut short looks like this, so that another attempt may succeed.
                raise RemoteUnreachable
        self._count(CHUNK_OVERHEAD_BYTES)
        self._left_bytes = int(found[1], 16)
        if not self._left_bytes:
            self._is_chunked = False
            self._headers(HEAD_BYTES)

    def _line(self, max_bytes: int) -> bytes:
        """Return the next line without its CRLF.

        :raises RemoteProtocolError: it is longer, or ends in another way.
        """
        seen_bytes = 0
        while (end := self._buffer.find(b"\n", self._at + seen_bytes, self._end)) < 0:
            seen_bytes = self._end - self._at
            if seen_bytes > max_bytes + 1:
                raise _malformed()
            if not self._receive():
                raise RemoteUnreachable
        line = bytes(self._view[self._at : end])
        self._at = end + 1
        if len(line) > max_bytes + 1 or not line.endswith(b"\r"):
            raise _malformed()
        return line[:-1]

    def _receive(self) -> int:
        """Receive more bytes behind the unread ones, and return how many."""
        self.reuse()
        if self._at == self._end:
            self._at = self._end = 0
        elif self._end == READ_BYTES:
            left_bytes = self._end - self._at
            self._view[:left_bytes] = self._view[self._at : self._end]
            self._at, self._end = 0, left_bytes
        size = self._receive_into(self._view[self._end :])
        self._end += size
        self.has_received = self.has_received or size > 0
        return size


def _malformed() -> RemoteProtocolError:
    return RemoteProtocolError(reason="http")
