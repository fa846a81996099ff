"""Reads and writes pkt-lines and side bands (gitprotocol-common(5), gitprotocol-pack(5)).

Pack bytes are passed on as views of the receive buffer; only short lines are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from coderepos.exceptions import GitError, RemoteProtocolError
from coderepos.git.transport.http_connection import Response

PKT_LINE_BYTES: Final = 65_520
"""Longest pkt-line, including its four digits of length."""

FLUSH_PKT: Final = b"0000"
DELIM_PKT: Final = b"0001"

TOO_MANY_LINES: Final = "too many lines"
"""Reason of the error for more lines than are allowed."""

PARTS_AT_ONCE: Final = 512
"""Most parts that are passed on at once: the system writes at most 1,024 in one call."""

_PACK_BAND: Final = b"\1"
_PROGRESS_BAND: Final = b"\2"
_ERROR_BAND: Final = b"\3"
_ERROR: Final = b"ERR "

_LENGTH_BYTES: Final = 4
_FLUSH: Final = 0
_DELIM: Final = 1
_HEX_DIGITS: Final = b"0123456789abcdefABCDEF"


def pkt_line(text: bytes) -> bytes:
    """Return a pkt-line of text, which the protocol wants to end in a line feed."""
    return b"%04x%s\n" % (_LENGTH_BYTES + len(text) + 1, text)


def malformed() -> RemoteProtocolError:
    """Return the error for a response that breaks the protocol."""
    return RemoteProtocolError(reason="malformed answer")


class PktLines:
    """The pkt-lines of one response.

    :param response: positioned at the start of its body.
    :param max_lines: most lines outside of side bands; each costs time, however short it is.
    :param remote_error: returns the error for an error message of the server.
    """

    def __init__(self, response: Response, *, max_lines: int, remote_error: Callable[[bytes], GitError]) -> None:
        self.is_delimited = False
        """Whether the last section ended with a delimiter, so that another section follows."""
        self._response: Final = response
        self._body: Final = response.body
        self._part = memoryview(b"")
        self._at = 0
        self._left_lines = max_lines
        self._remote_error: Final = remote_error

    def section(self) -> Iterator[bytes]:
        """Yield the lines up to the next flush or delimiter, without their line feeds."""
        while (line := self.line()) is not None:
            yield line

    def line(self) -> bytes | None:
        """Return the next line without its line feed, ``None`` at a flush or delimiter.

        :raises RemoteProtocolError: it is malformed, or one too many.
        :raises GitError: the server reports an error.
        """
        self._left_lines -= 1
        if self._left_lines < 0:
            raise RemoteProtocolError(reason=TOO_MANY_LINES)
        size = self._length()
        if size < _LENGTH_BYTES:
            self.is_delimited = size == _DELIM
            if size not in (_FLUSH, _DELIM):
                raise malformed()
            return None
        line = self._exactly(size - _LENGTH_BYTES)
        if line.startswith(_ERROR):
            raise self._remote_error(line[len(_ERROR) :])
        return line.removesuffix(b"\n")

    def side_bands(self, take: Callable[[list[memoryview], int], None]) -> None:
        """Read side bands up to their flush; pack data goes to ``take``, progress messages are discarded.

        :param take: called with the parts of the pack from one receive, and the number of lines since the last call.
        :raises RemoteProtocolError: a line is malformed, or of an unknown band.
        :raises GitError: the server reports an error.
        """
        parts: list[memoryview] = []
        lines = 0

        def flush() -> None:
            nonlocal parts, lines
            taken, parts = parts, []
            number, lines = lines, 0
            take(taken, number)

        self._response.before_receive(flush)
        while size := self._length():
            band = self._exactly(1) if size > _LENGTH_BYTES else b""
            if band not in (_PACK_BAND, _PROGRESS_BAND):
                flush()
                if band == _ERROR_BAND:
                    raise self._remote_error(self._exactly(size - _LENGTH_BYTES - 1))
                raise malformed()
            lines += 1
            left_bytes = size - _LENGTH_BYTES - 1
            while left_bytes:
                part = self._at_most(left_bytes)
                left_bytes -= len(part)
                if band == _PACK_BAND:
                    parts.append(part)
                    if len(parts) >= PARTS_AT_ONCE:
                        flush()
        flush()

    def rest(self, take: Callable[[list[memoryview], int], None]) -> None:
        """Pass the rest of the body, which has no pkt-lines, to ``take``."""
        if part := self._part[self._at :]:
            take([part], 0)
        while part := self._body():
            take([part], 0)

    def _length(self) -> int:
        digits = self._exactly(_LENGTH_BYTES)
        if digits.translate(None, _HEX_DIGITS):
            raise malformed()
        size = int(digits, 16)
        if size > PKT_LINE_BYTES:
            raise malformed()
        return size

    def _exactly(self, size: int) -> bytes:
        end = self._at + size
        if end <= len(self._part):
            data = bytes(self._part[self._at : end])
            self._at = end
            return data
        parts = []
        while size:
            parts.append(bytes(self._at_most(size)))
            size -= len(parts[-1])
        return b"".join(parts)

    def _at_most(self, size: int) -> memoryview:
        """Return the next bytes, at most ``size`` and at least one.

        :raises RemoteProtocolError: there are none.
        """
        if self._at == len(self._part):
            self._part, self._at = self._body(), 0
            if not self._part:
                raise malformed()
        part = self._part[self._at : self._at + size]
        self._at += len(part)
        return part
