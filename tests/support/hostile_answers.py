"""What hostile servers answer, for the stages of a fetch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count

from tests.support.servers.hostile import (
    ADVERTISEMENT,
    FLUSH,
    ID,
    RESULT,
    Answer,
    advertisement,
    pkt,
    v2_server,
)
from tests.support.servers.http_server import Exchange

TOKEN = "tok3n-vAlue"


def at(stage: str, hostile: Answer) -> Answer:
    """Return a server that behaves until ``advertisement``, ``refs`` or ``pack`` is asked for."""
    well_behaved = v2_server()

    def answer(exchange: Exchange) -> None:
        asked = "advertisement" if exchange.is_advertisement else "refs" if exchange.is_ls_refs else "pack"
        (hostile if asked == stage else well_behaved)(exchange)

    return answer


def body(data: bytes) -> Answer:
    """Return an answer that sends ``data`` with the right content type."""
    return lambda exchange: exchange.answer(data, ADVERTISEMENT if exchange.is_advertisement else RESULT)


def redirect(status: int, location: str) -> Answer:
    """Return an answer that leads elsewhere."""
    return lambda exchange: exchange.answer(b"", RESULT, status, Location=location)


def echoes(exchange: Exchange) -> bytes:
    """Return the credentials as they came and as they are meant."""
    return exchange.headers["authorization"].encode() + b" " + TOKEN.encode() + b"\x1b[31m"


ECHOES: dict[str, Answer] = {
    "401 realm": lambda exchange: exchange.answer(b"", RESULT, 401, WWW_Authenticate=f'Basic realm="{TOKEN}\x1b[31m"'),
    "reason phrase": lambda exchange: exchange.send(b"HTTP/1.1 500 " + echoes(exchange) + b"\r\n\r\n"),
    "status line": lambda exchange: exchange.send(b"HTTP/1.1 " + echoes(exchange) + b"\r\n\r\n"),
    "no http": lambda exchange: exchange.send(echoes(exchange) + b"\r\n\r\n"),
    "content type": lambda exchange: exchange.answer(b"", TOKEN),
    "location": lambda exchange: exchange.answer(b"", RESULT, 302, Location=f"http://{TOKEN}@127.0.0.1/"),
    "bad chunk": lambda exchange: exchange.send(
        b"HTTP/1.1 200 x\r\nContent-Type: application/x-git-upload-pack-result\r\nTransfer-Encoding: chunked\r\n\r\n"
        + echoes(exchange)
        + b"\r\n"
    ),
    "ERR": lambda exchange: body(pkt(b"ERR " + echoes(exchange)))(exchange),
    "line": lambda exchange: body(pkt(echoes(exchange)) + FLUSH)(exchange),
    "sideband 2": lambda exchange: body(pkt(b"packfile\n") + pkt(b"\2" + echoes(exchange)) + FLUSH)(exchange),
    "sideband 3": lambda exchange: body(pkt(b"packfile\n") + pkt(b"\3" + echoes(exchange)) + FLUSH)(exchange),
    "sideband 9": lambda exchange: body(pkt(b"packfile\n") + pkt(b"\x09" + echoes(exchange)) + FLUSH)(exchange),
}


def cut_off(exchange: Exchange) -> None:
    exchange.head(Content_Type=ADVERTISEMENT if exchange.is_advertisement else RESULT, Content_Length="1000")
    exchange.send(b"00")
    raise ConnectionError


def cut_off_chunk(exchange: Exchange) -> None:
    exchange.head(Content_Type=ADVERTISEMENT if exchange.is_advertisement else RESULT, Transfer_Encoding="chunked")
    exchange.send(b"100\r\n00")
    raise ConnectionError


def hang_up(exchange: Exchange) -> None:
    raise ConnectionError


def slowly(pieces: Iterable[bytes], exchange: Exchange) -> None:
    for piece in pieces:
        if not exchange.wait(0.1):
            return
        exchange.send(piece)


def headers_drip(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 x\r\n")
    slowly((b"X" for _ in count()), exchange)


def header_lines_drip(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 x\r\n")
    slowly((b"X: y\r\n" for _ in count()), exchange)


def body_drips(exchange: Exchange) -> None:
    exchange.head(Content_Type=ADVERTISEMENT if exchange.is_advertisement else RESULT, Content_Length="100000")
    slowly((bytes([byte]) for byte in pkt(b"x" * 60_000)), exchange)


def chunks_drip(exchange: Exchange) -> None:
    exchange.head(Content_Type=ADVERTISEMENT if exchange.is_advertisement else RESULT, Transfer_Encoding="chunked")
    slowly((b"1" for _ in count()), exchange)


def continues(exchange: Exchange) -> None:
    slowly((b"HTTP/1.1 100 x\r\n\r\n" for _ in count()), exchange)


def stalls(exchange: Exchange) -> None:
    exchange.wait(30)


def endless(piece: bytes) -> Callable[[Exchange], Iterator[bytes]]:
    def pieces(exchange: Exchange) -> Iterator[bytes]:
        while not exchange.stopping.is_set():
            yield piece

    return pieces


def endless_body(piece: bytes) -> Answer:
    """Return an answer of endless pieces."""
    return lambda exchange: exchange.stream(
        endless(piece)(exchange), ADVERTISEMENT if exchange.is_advertisement else RESULT
    )


def million_refs(form: str, line_end: str = "\n") -> Iterator[bytes]:
    for start in range(0, 10**6, 10**4):
        yield b"".join(pkt((form.format(number=number) + line_end).encode()) for number in range(start, start + 10**4))


def v0_million(exchange: Exchange) -> None:
    first = advertisement([("HEAD", ID)])[: -len(FLUSH)]
    exchange.stream(chain([first], million_refs(f"{ID} refs/pull/{{number}}/head")), ADVERTISEMENT)


def raw(start: bytes, piece: bytes) -> Answer:
    """Return an answer of ``start`` and endless pieces, with no HTTP around them."""

    def answer(exchange: Exchange) -> None:
        exchange.send(start)
        while not exchange.stopping.is_set():
            exchange.send(piece)

    return answer
