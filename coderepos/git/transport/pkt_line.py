"""Reads and writes pkt-lines and side bands (gitprotocol-common(5), gitprotocol-pack(5)).

Pack bytes leave as parts of the buffer that they were received into; only short lines are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from coderepos.exceptions import GitError, RemoteProtocolError
from coderepos.git.transport.http_connection import Answer

PKT_LINE_BYTES: Final = 65_520
"""Longest pkt-line, its length of four digits included."""

FLUSH_PKT: Final = b"0000"
DELIM_PKT: Final = b"0001"

TOO_MANY_LINES: Final = "too many lines"
"""Reason of the error for more lines than are allowed."""

PARTS_AT_ONCE: Final = 512
"""Most parts that are gathered: the system writes 1,024 in one call."""

_PACK_BAND: Final = b"\1"
_PROGRESS_BAND: Final = b"\2"
_ERROR_BAND: Final = b"\3"
_ERROR: Final = b"ERR "

_LENGTH_BYTES: Final = 4
_FLUSH: Final = 0
_DELIM: Final = 1
_HEX_DIGITS: Final = b"0123456789abcdefABCDEF"


def pkt_line(text: bytes) -> bytes:
    """Return one pkt-line; a line feed ends it, as the protocol asks for where it is text."""
    return b"%04x%s\n" % (_LENGTH_BYTES + len(text) + 1, text)


def malformed() -> RemoteProtocolError:
    """Return the error for an answer that breaks the protocol."""
    return RemoteProtocolError(reason="malformed answer")


class PktLines:
    """The pkt-lines of one answer.

    :param answer: stands at the beginning of its body.
    :param most_lines: lines that the answer may have besides those of side bands; each costs time, however short it is.
    :param remote_error: makes the error of what the server itself reports as one, out of its text.
    """

    def __init__(self, answer: Answer, *, most_lines: int, remote_error: Callable[[bytes], GitError]) -> None:
        self.is_delimited = False
        """Whether the last section ended with a delimiter, so that another one follows."""
        self._answer: Final = answer
        self._body: Final = answer.body
        self._part = memoryview(b"")
        self._at = 0
        self._left_lines = most_lines
        self._remote_error: Final = remote_error

    def section(self) -> Iterator[bytes]:
        """Yield the lines up to the next flush or delimiter, without their line feeds."""
        while (line := self.line()) is not None:
            yield line

    def line(self) -> bytes | None:
        """Return the next line without its line feed, ``None`` at a flush or delimiter.

        :raises RemoteProtocolError: it is malformed, or one too many.
        :raises GitError: the one for an error that the server reports.
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
        """Read side bands up to their flush; bytes of the pack's band go to ``take``, those of progress nowhere.

        :param take: is given all parts that one receive has brought, and the number of lines since it was called last.
        :raises RemoteProtocolError: a line is malformed, or of a band that does not exist.
        :raises GitError: the one for an error that the server reports.
        """
        parts: list[memoryview] = []
        lines = 0

        def give() -> None:
            nonlocal parts, lines
            given, parts = parts, []
            number, lines = lines, 0
            take(given, number)

        self._answer.before_receive(give)
        while size := self._length():
            band = self._exactly(1) if size > _LENGTH_BYTES else b""
            if band not in (_PACK_BAND, _PROGRESS_BAND):
                give()
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
                        give()
        give()

    def rest(self, take: Callable[[list[memoryview], int], None]) -> None:
        """Give everything that is left, which is no pkt-line, to ``take``."""
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
