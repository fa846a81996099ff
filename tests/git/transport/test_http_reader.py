"""Our reader of HTTP answers: what it understands, what it refuses, and that it does not matter how bytes arrive."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderepos.exceptions import GitError, RemoteProtocolError, RemoteUnreachable
from coderepos.git.transport.http_reader import (
    CHUNK_LINE_BYTES,
    CHUNK_OVERHEAD_BYTES,
    HEAD_BYTES,
    HEADERS,
    INTERIM_RESPONSES,
    HttpReader,
    ResponseHead,
)
from tests.support.wire import Wire

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def reader_of(data: bytes, sizes: list[int] | None = None) -> HttpReader:
    wire = Wire(data, sizes or [])
    return HttpReader(wire.receive_into, wire.count)


def read(data: bytes, sizes: list[int] | None = None) -> tuple[ResponseHead, bytes, bool]:
    """Return head and body of an answer, and whether another one may follow on the connection."""
    reader = reader_of(data, sizes)
    head = reader.head()
    reader.expect_body(head)
    body = bytearray()
    while part := reader.body():
        body += part
    return head, bytes(body), reader.is_reusable


@pytest.mark.parametrize(
    ("data", "body", "is_reusable"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello", True),
        (OK + b"content-length:005\r\n\r\nhello", b"hello", True),
        (OK + b"Content-Length: 0\r\n\r\n", b"", True),
        (OK + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello", b"hello", False),
        (OK + b"Content-Length: 5\r\nConnection: x, Close\r\n\r\nhello", b"hello", False),
        (OK + b"Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n", b"hello", False),
        (OK + b"\r\nhello", b"hello", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
        (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
        (b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
        (b"HTTP/1.1 200 \xe9t\xe9\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"hello", True),
        (CHUNKED + b"2\r\nhe\r\n03\r\nllo\r\n000\r\n\r\n", b"hello", True),
        (CHUNKED + b'5;a=b;c="d e"\r\nhello\r\n0;x\r\nTrailer: x\r\nOther: y\r\n\r\n', b"hello", True),
        (CHUNKED + b"A\r\n0123456789\r\na \r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2, True),
        (CHUNKED + b"0\r\n\r\n", b"", True),
        (CHUNKED + b"0\r\n\r\nmore", b"", False),
        (OK + b"Transfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", b"x", True),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx",
            b"x",
            True,
        ),
    ],
)
def test_well_formed_answers(data: bytes, body: bytes, is_reusable: bool) -> None:
    """Each way to tell a body's length is understood, and whether the connection can be used again."""
    head, found, goes_on = read(data)

    assert (head.status, found, goes_on) == (200, body, is_reusable)


def test_headers() -> None:
    """Names lose their case, values the space around them, and repeated ones are joined."""
    head, _, _ = read(OK + b"A-b: \t x y\t \r\nX:\r\nSet: 1\r\nsEt: 2\r\nBytes: \xff\r\nContent-Length: 0\r\n\r\n")

    assert head.headers == {"a-b": "x y", "x": "", "set": "1, 2", "bytes": "\xff", "content-length": "0"}


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (b"", ""),
        (b"Content-Type: Text/HTML ;charset=utf-8\r\n", "text/html"),
        (b"Content-Type: a/b\r\ncontent-type: A/b\r\n", "a/b"),
        (b"Content-Type: a/b; c=d\r\ncontent-type: a/b; c=d\r\n", "a/b"),
        (b'Content-Type: a/b; c="d,e"\r\n', "a/b"),
        (b"Content-Type: a/b\r\ncontent-type: a/c\r\n", "a/b, a/c"),
    ],
)
def test_media_type(told: bytes, kind: str) -> None:
    """Without case and parameters; told twice it is one, unless they differ."""
    assert reader_of(OK + told + b"\r\n").head().media_type == kind


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b" HTTP/1.1 200 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x1bK\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        OK + b"A: b\n\r\n",
        OK + b"A: b\r\n\n",
        OK + b"A: b\r\r\n\r\n",
        OK + b"A: b\rC: d\r\n\r\n",
        OK + b"A: b\0\r\n\r\n",
        OK + b"A: \x7f\r\n\r\n",
        OK + b"A: \x1b[31m\r\n\r\n",
        OK + b"A: b\r\n folded\r\n\r\n",
        OK + b"A: b\r\n\tfolded\r\n\r\n",
        OK + b" A: b\r\n\r\n",
        OK + b"A : b\r\n\r\n",
        OK + b": b\r\n\r\n",
        OK + b"A\r\n\r\n",
        OK + b"A(b): c\r\n\r\n",
        OK + b"\xe9: c\r\n\r\n",
    ],
)
def test_malformed_heads(head: bytes) -> None:
    """A status line or header that two readers could understand in two ways is refused."""
    with pytest.raises(RemoteProtocolError) as caught:
        reader_of(head).head()

    assert caught.value.fields == {"reason": "http"}


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: -1\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: 5_0\r\n",
        b"Content-Length: \xb2\r\n",
        b"Content-Length:\r\n",
        b"Content-Length: " + b"9" * 19 + b"\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\ncontent-length: 6\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked;x=y\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding:\r\n",
    ],
)
def test_lengths_told_in_no_or_in_two_ways(headers: bytes) -> None:
    """A length that is none, repeated, or told beside chunks is refused."""
    with pytest.raises(RemoteProtocolError) as caught:
        read(OK + headers + b"\r\n5\r\nhello\r\n0\r\n\r\n")

    assert caught.value.fields == {"reason": "http"}


def test_chunks_of_an_old_server() -> None:
    """HTTP/1.0 knows no chunks."""
    with pytest.raises(RemoteProtocolError):
        read(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "chunks",
    [
        b"\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5_0\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 x\r\nhello\r\n",
        b"5;\x1b\r\nhello\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"f" * 16 + b"\r\nhello\r\n",
        b"4\r\nhello\r\n0\r\n\r\n",
        b"6\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
    ],
)
def test_malformed_chunks(chunks: bytes) -> None:
    """Chunks that are none end in an error, whatever is left of them."""
    with pytest.raises((RemoteProtocolError, RemoteUnreachable)):
        read(CHUNKED + chunks)


@pytest.mark.parametrize("data", [CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", OK + b"Content-Length: 5\r\n\r\nhello"])
def test_answers_that_end_early(data: bytes) -> None:
    """A connection that ends anywhere inside an answer is one that broke."""
    for end in range(len(data)):
        with pytest.raises(RemoteUnreachable):
            read(data[:end])


def accepted(data: bytes) -> bool:
    try:
        read(data)
    except RemoteProtocolError:
        return False
    return True


@pytest.mark.parametrize(
    ("at_the_limit", "above_it"),
    [
        (
            OK + b"X: y\r\n" * (HEADERS - 1) + b"Content-Length: 0\r\n\r\n",
            OK + b"X: y\r\n" * HEADERS + b"Content-Length: 0\r\n\r\n",
        ),
        (
            OK + b"X: " + b"y" * (HEAD_BYTES - len(OK) - 20) + b"\r\n\r\n",
            OK + b"X: " + b"y" * HEAD_BYTES + b"\r\n\r\n",
        ),
        (
            b"HTTP/1.1 100 x\r\n\r\n" * INTERIM_RESPONSES + OK + b"\r\n",
            b"HTTP/1.1 100 x\r\n\r\n" * (INTERIM_RESPONSES + 1) + OK + b"\r\n",
        ),
        (
            CHUNKED + b"1;" + b"x" * (CHUNK_LINE_BYTES - 2) + b"\r\nx\r\n0\r\n\r\n",
            CHUNKED + b"1;" + b"x" * (CHUNK_LINE_BYTES - 1) + b"\r\nx\r\n0\r\n\r\n",
        ),
        (
            CHUNKED + b"0\r\n" + b"X: y\r\n" * HEADERS + b"\r\n",
            CHUNKED + b"0\r\n" + b"X: y\r\n" * (HEADERS + 1) + b"\r\n",
        ),
        (
            CHUNKED + b"0\r\nX: " + b"y" * (HEAD_BYTES - 3) + b"\r\n\r\n",
            CHUNKED + b"0\r\nX: " + b"y" * (HEAD_BYTES - 2) + b"\r\n\r\n",
        ),
    ],
    ids=["headers", "head", "interim answers", "chunk extension", "trailers", "trailer"],
)
def test_limits(at_the_limit: bytes, above_it: bytes) -> None:
    """What is bounded passes up to its bound and not beyond."""
    assert accepted(at_the_limit)
    assert not accepted(above_it)


@pytest.mark.parametrize("start", [b"", OK, OK + b"X: ", CHUNKED, CHUNKED + b"1;", CHUNKED + b"0\r\nX: "])
def test_endless_lines_are_not_waited_for(start: bytes) -> None:
    """A line without end is refused soon after its bound."""
    wire = Wire(start + b"x" * 10**6, [1_000] * 10**4)
    reader = HttpReader(wire.receive_into, wire.count)
    with pytest.raises(RemoteProtocolError):
        read_all(reader)

    assert wire.receives < 70


def read_all(reader: HttpReader) -> None:
    reader.expect_body(reader.head())
    while reader.body():
        continue


def test_small_chunks_weigh_more_than_their_bytes() -> None:
    """Every chunk is counted, since a million of them cost more time than a million bytes."""
    wire = Wire(CHUNKED + b"1\r\nx\r\n" * 1_000 + b"0\r\n\r\n", [])
    read_all(HttpReader(wire.receive_into, wire.count))

    assert wire.counted_bytes == 1_001 * CHUNK_OVERHEAD_BYTES


def test_what_was_returned_is_used_before_its_place() -> None:
    """The bytes of all parts are untouched until it is said that they are used again."""
    content = bytes(range(256)) * 3_000
    chunks = b"".join(b"%x\r\n%s\r\n" % (999, content[at : at + 999]) for at in range(0, 999 * 700, 999))
    reader = reader_of(CHUNKED + chunks + b"0\r\n\r\n", [50_000] * 100)
    reader.expect_body(reader.head())
    parts: list[memoryview] = []
    seen = bytearray()

    def use() -> None:
        seen.extend(b"".join(parts))
        parts.clear()

    reader.before_receive = use
    while part := reader.body():
        parts.append(part)
    use()

    assert seen == content[: 999 * 700]


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except GitError as error:
        return type(error)


ANSWERS = st.one_of(
    st.lists(st.binary(min_size=1, max_size=40)).map(
        lambda chunks: CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in chunks) + b"0\r\nT: x\r\n\r\n"
    ),
    st.binary(max_size=100).map(lambda body: OK + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)),
    st.binary(max_size=100).map(lambda body: b"HTTP/1.1 100 x\r\n\r\n" + OK + b"\r\n" + body),
    st.binary(max_size=100).map(lambda body: CHUNKED + body),
    st.binary(max_size=100),
)


@given(data=ANSWERS, sizes=st.lists(st.integers(1, 50), max_size=60))
def test_result_does_not_depend_on_how_bytes_arrive(data: bytes, sizes: list[int]) -> None:
    """However an answer is cut into receives, its body, or its kind of error, is the same."""
    assert outcome(lambda: read(data, sizes)[1:]) == outcome(lambda: read(data)[1:])
