"""Our reader of pkt-lines and side bands: its limits, and that it does not matter how bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderepos.exceptions import RemoteError, RemoteProtocolError
from coderepos.git.remote_text import remote_error
from coderepos.git.transport.http_connection import Response
from coderepos.git.transport.http_reader import READ_BYTES, HttpReader
from coderepos.git.transport.pkt_line import PARTS_AT_ONCE, PKT_LINE_BYTES, PktLines, pkt_line
from tests.support.servers.hostile import FLUSH, pkt
from tests.support.wire import Wire

DELIM = b"0001"
MALFORMED = {"reason": "malformed answer"}


def lines_of(data: bytes, sizes: list[int] | None = None, *, max_lines: int = 100) -> PktLines:
    """Return the pkt-lines of an answer with this body, received in pieces of these sizes after its head."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data)
    wire = Wire(head + data, [len(head), *(sizes or [])])
    reader = HttpReader(wire.receive_into, wire.count)
    reader.expect_body(reader.head())
    return PktLines(
        Response({}, reader, wire.count), max_lines=max_lines, remote_error=lambda text: remote_error(text, ())
    )


def bands_of(data: bytes, sizes: list[int] | None = None) -> tuple[bytes, int]:
    """Return the bytes of the pack's band and the number of lines."""
    pack = bytearray()
    number = 0

    def take(parts: list[memoryview], lines: int) -> None:
        nonlocal number
        assert len(parts) <= PARTS_AT_ONCE
        pack.extend(b"".join(parts))
        number += lines

    lines_of(data, sizes).side_bands(take)
    return bytes(pack), number


def refused(data: bytes) -> dict[str, object]:
    """Return the fields of the error that reading lines to a flush ends in."""
    with pytest.raises(RemoteProtocolError) as caught:
        list(lines_of(data).section())
    return caught.value.fields


def test_lines_and_sections() -> None:
    """Lines lose one line feed, empty ones are lines too, and a delimiter tells that there is more."""
    lines = lines_of(pkt(b"a\n") + pkt(b"") + pkt(b"b\n\n") + pkt(b"\n") + DELIM + pkt(b"c") + FLUSH)

    assert list(lines.section()) == [b"a", b"", b"b\n", b""]
    assert lines.is_delimited
    assert list(lines.section()) == [b"c"]
    assert not lines.is_delimited


def test_written_lines_are_read() -> None:
    """What is written for a request is what a reader finds."""
    assert pkt_line(b"done") == b"0009done\n"
    assert list(lines_of(pkt_line(b"x" * 300) + FLUSH).section()) == [b"x" * 300]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"0",
        b"000",
        b"0002",
        b"0003",
        b"-001",
        b"+005x",
        b" 005x",
        b"0_05x",
        b"0x05x",
        b"00g5x",
        b"\xef\xbc\x95005",
        b"0005",
        b"0009done",
        b"fff1" + b"x" * 65_536,
        b"ffff" + b"x" * 65_536,
    ],
)
def test_malformed_lines(data: bytes) -> None:
    """Lengths that are none, and lines that are cut off or too long, have one answer."""
    assert refused(data) == MALFORMED


@pytest.mark.parametrize(
    ("line", "text"), [(b"ERR no such thing\n", "no such thing"), (b"ERR a\0\x1b[1mb", "a [1mb"), (b"ERR ", "")]
)
def test_error_lines(line: bytes, text: str) -> None:
    """What the server reports in place of any line is an error of its own, with its text."""
    with pytest.raises(RemoteError) as caught:
        list(lines_of(pkt(b"x") + pkt(line) + FLUSH).section())

    assert caught.value.fields.get("remote_text", "") == text
    assert caught.value.message.endswith(text or ".")


def test_error_band() -> None:
    """So is what comes on the error band."""
    with pytest.raises(RemoteError) as caught:
        bands_of(pkt(b"\2progress") + pkt(b"\3access denied\n"))

    assert caught.value.fields == {"remote_text": "access denied"}


def test_longest_line() -> None:
    """A line may be as long as the protocol says."""
    assert list(lines_of(pkt(b"x" * (PKT_LINE_BYTES - 4)) + FLUSH).section()) == [b"x" * (PKT_LINE_BYTES - 4)]


def test_number_of_lines() -> None:
    """As many lines as are allowed pass, flushes included, and not one more."""
    assert len(list(lines_of(pkt(b"") * 99 + FLUSH).section())) == 99
    assert refused(pkt(b"") * 100 + FLUSH) == {"reason": "too many lines"}


def test_side_bands() -> None:
    """Pack bytes arrive in order, progress and empty lines are only counted."""
    data = pkt(b"\1PA") + pkt(b"\2counting") + pkt(b"\1") + pkt(b"\2") + pkt(b"\1CK") + FLUSH + b"more"

    assert bands_of(data) == (b"PACK", 5)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"0",
        b"0001",
        b"0002",
        b"0003",
        b"0004",
        b"ffff\1",
        *(pkt(bytes([band]) + b"x") for band in (0, 4, 32, 255)),
    ],
)
def test_malformed_side_bands(line: bytes) -> None:
    """Bands that do not exist, no band, a delimiter and a missing flush end in one error."""
    for start in (b"", pkt(b"\1PACK"), pkt(b"\2x")):
        with pytest.raises(RemoteProtocolError) as caught:
            bands_of(start + line)

        assert caught.value.fields == MALFORMED


def test_what_came_before_an_error_is_given() -> None:
    """Pack bytes before the error band are given away, so that a pack that began is told from one that did not."""
    taken: list[bytes] = []
    with pytest.raises(RemoteError):
        lines_of(pkt(b"\1PACK") + pkt(b"\3no")).side_bands(lambda parts, lines: taken.extend(map(bytes, parts)))

    assert taken == [b"PACK"]


def test_very_many_small_lines() -> None:
    """Pieces of one byte are gathered, never more of them than one system call writes."""
    assert bands_of(pkt(b"\1x") * 50_000 + FLUSH) == (b"x" * 50_000, 50_000)


def test_rest() -> None:
    """What follows the lines is given as it is, also what was received with them."""
    taken = bytearray()
    lines = lines_of(pkt(b"NAK\n") + b"PACK" + bytes(READ_BYTES * 2))
    assert lines.line() == b"NAK"
    lines.rest(lambda parts, number: taken.extend(b"".join(parts)))

    assert taken == b"PACK" + bytes(READ_BYTES * 2)


@given(
    bands=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=60)), max_size=20),
    sizes=st.lists(st.integers(1, 40), max_size=60),
)
def test_result_does_not_depend_on_how_bytes_arrive(bands: list[tuple[int, bytes]], sizes: list[int]) -> None:
    """However side bands are cut into receives, the same pack comes out."""
    data = b"".join(pkt(bytes([band]) + content) for band, content in bands) + FLUSH

    assert bands_of(data, sizes) == (b"".join(content for band, content in bands if band == 1), len(bands))
