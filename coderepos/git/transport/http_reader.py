"""Reads HTTP/1.1 answers (RFC 9112) strictly, out of one buffer.

Lines end in CRLF, one framing is allowed per body, and everything besides a body is bounded: an answer that two readers
could understand in two ways is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from coderepos.exceptions import RemoteProtocolError, RemoteUnreachable

READ_BYTES: Final = 262_144
"""Size of the buffer: most bytes that are taken from the socket at once."""

HEAD_BYTES: Final = 65_536
"""Longest status line and headers of one answer, also longest trailers."""

HEADERS: Final = 100
"""Most headers of one answer, also most trailers."""

INTERIM_ANSWERS: Final = 16
"""Most answers of status 1xx before the final one."""

CHUNK_LINE_BYTES: Final = 1_024
"""Longest line before a chunk: its size and extensions."""

CHUNK_OVERHEAD_BYTES: Final = 64
"""Fixed overhead charged per chunk: small chunks cost time."""

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?\Z")
_HEADER_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_CONTROL: Final = re.compile(rb"[^\t -~\x80-\xff]")
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t -~\x80-\xff]*)?\Z")
_NEXT_CHUNK: Final = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})\r\n")
"""End of one chunk and line before the next, as nearly all are."""

_LENGTH: Final = re.compile(r"[0-9]{1,18}\Z")

_ENDLESS: Final = 1 << 62


class Head:
    """Status and headers of one answer.

    :param headers: by their lower-case names; values of repeated ones are joined by commas (RFC 9110, 5.3).
    """

    __slots__ = ("headers", "is_last", "is_old", "status")

    def __init__(self, minor_version: bytes, status: int, headers: dict[str, str]) -> None:
        self.is_old: Final = minor_version == b"0"
        """Whether it is HTTP/1.0."""
        self.status: Final = status
        self.headers: Final = headers
        options = headers.get("connection", "").lower().split(",")
        self.is_last: Final = self.is_old or "close" in (option.strip() for option in options)
        """Whether the server will close the connection after this answer."""

    @property
    def media_type(self) -> str:
        """Media type of the body in lower case and without parameters, such as ``text/html``; empty where none is told.

        The same one told twice, by a server and a proxy before it, is one.
        """
        told = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        kinds = {kind.strip() for kind in told.split(",")}
        return kinds.pop() if len(kinds) == 1 else told


class HttpReader:
    """Reads the answers of one connection, one after the other.

    :param receive_into: puts the next bytes into a buffer and returns their number, 0 at the end of the connection.
    :param count: is told what the chunks weigh.
    """

    def __init__(self, receive_into: Callable[[memoryview], int], count: Callable[[int], None]) -> None:
        self.has_received = False
        """Whether anything arrived since :meth:`await_answer` was called."""
        self.before_receive: Callable[[], None] | None = None
        """Is called before the buffer is used again."""
        self._receive_into: Final = receive_into
        self._count: Final = count
        self._buffer: Final = bytearray(READ_BYTES)
        self._view: Final = memoryview(self._buffer)
        self._at = self._end = 0
        self._left_bytes = 0
        self._is_chunked = self._is_in_chunks = self._ends_with_connection = False
        self._is_last = True

    def await_answer(self) -> None:
        """Forget what is left of the answer before; call it before a request is sent."""
        self._at = self._end = self._left_bytes = 0
        self._is_chunked = self.has_received = False
        self.before_receive = None

    @property
    def may_go_on(self) -> bool:
        """Whether the answer is over, with nothing after it, and the server keeps the connection."""
        return not (self._left_bytes or self._is_chunked or self._is_last or self._at < self._end)

    @property
    def has_rest(self) -> bool:
        """Whether more arrived than was read."""
        return self._at < self._end

    def head(self) -> Head:
        """Read up to the body of the next answer; interim ones are skipped.

        :raises RemoteProtocolError: it is malformed or too long.
        :raises RemoteUnreachable: the connection ends.
        """
        for _ in range(1 + INTERIM_ANSWERS):
            head = self._one_head()
            if head.status >= 200 or head.status == 101:
                self._is_last = head.is_last
                return head
        raise _malformed()

    def expect_body(self, head: Head) -> None:
        """Prepare to read the body of an answer with status 200.

        :raises RemoteProtocolError: its length is not told in exactly one way.
        """
        coding, length = head.headers.get("transfer-encoding"), head.headers.get("content-length")
        self._is_chunked, self._is_in_chunks = coding is not None, False
        self._ends_with_connection = coding is None and length is None
        if coding is not None:
            if coding.lower() != "chunked" or length is not None or head.is_old:
                raise _malformed()
            self._left_bytes = 0
        elif length is not None:
            if not _LENGTH.match(length):
                raise _malformed()
            self._left_bytes = int(length)
        else:
            self._left_bytes, self._is_last = _ENDLESS, True

    def body(self) -> memoryview:
        """Return the next bytes of the body, none at its end; they are valid until :attr:`before_receive` is called.

        :raises RemoteProtocolError: trailers or the line before a chunk are too long or malformed.
        :raises RemoteUnreachable: the connection ends before the body does, or the chunks are none.
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
        """Let go of the bytes that were returned so far."""
        if self.before_receive is not None:
            self.before_receive()

    def _one_head(self) -> Head:
        left_bytes = HEAD_BYTES
        line = self._line(left_bytes)
        found = _STATUS_LINE.match(line)
        if found is None or _CONTROL.search(line):
            raise _malformed()
        return Head(found[1], int(found[2]), self._headers(left_bytes - len(line)))

    def _headers(self, left_bytes: int) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(1 + HEADERS):
            line = self._line(left_bytes)
            if not line:
                return headers
            left_bytes -= len(line)
            name_bytes, colon, value_bytes = line.partition(b":")
            # A folded line begins with a space, which no name does.
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
                # Whatever cuts the chunks short looks like this; another try may find the host in better health.
                raise RemoteUnreachable
        self._count(CHUNK_OVERHEAD_BYTES)
        self._left_bytes = int(found[1], 16)
        if not self._left_bytes:
            self._is_chunked = False
            self._headers(HEAD_BYTES)

    def _line(self, most_bytes: int) -> bytes:
        """Return the next line without its CRLF.

        :raises RemoteProtocolError: it is longer, or ends in another way.
        """
        seen_bytes = 0
        while (end := self._buffer.find(b"\n", self._at + seen_bytes, self._end)) < 0:
            seen_bytes = self._end - self._at
            if seen_bytes > most_bytes + 1:
                raise _malformed()
            if not self._receive():
                raise RemoteUnreachable
        line = bytes(self._view[self._at : end])
        self._at = end + 1
        if len(line) > most_bytes + 1 or not line.endswith(b"\r"):
            raise _malformed()
        return line[:-1]

    def _receive(self) -> int:
        """Take more bytes behind those that are left, and return how many."""
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
