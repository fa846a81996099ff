"""A server on loopback that says whatever a test wants, byte by byte, and the pieces of Git's protocol to say it with.

::

    def answer(exchange: Exchange) -> None:
        exchange.answer(advertisement([("refs/heads/main", ID)]), ADVERTISEMENT)

    with HostileServer(answer) as server:
        ...
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from tests.support.servers.http_server import Exchange, HttpServer

ADVERTISEMENT = "application/x-git-upload-pack-advertisement"
RESULT = "application/x-git-upload-pack-result"

ID = "1" * 40
FLUSH = b"0000"
SERVICE_LINE = b"# service=git-upload-pack\n"
V0_CAPABILITIES = (
    b"multi_ack thin-pack side-band side-band-64k ofs-delta shallow no-progress include-tag multi_ack_detailed"
    b" symref=HEAD:refs/heads/main agent=git/2.40"
)
V2_CAPABILITIES = (
    b"version 2\n",
    b"agent=git/2.40\n",
    b"ls-refs=unborn\n",
    b"fetch=shallow\n",
    b"object-format=sha1\n",
)

Refs = Sequence[tuple[str, str]]


def pkt(data: bytes) -> bytes:
    """Return a pkt-line."""
    return b"%04x" % (len(data) + 4) + data


def advertisement(refs: Refs, capabilities: bytes = V0_CAPABILITIES) -> bytes:
    """Return a protocol v0 advertisement."""
    lines = [f"{target} {name}".encode() for name, target in refs]
    lines[0] += b"\0" + capabilities
    return pkt(SERVICE_LINE) + FLUSH + b"".join(pkt(line + b"\n") for line in lines) + FLUSH


def capabilities(lines: Iterable[bytes] = V2_CAPABILITIES) -> bytes:
    """Return a protocol v2 capability advertisement."""
    return pkt(SERVICE_LINE) + FLUSH + b"".join(pkt(line) for line in lines) + FLUSH


def ls_refs(refs: Refs) -> bytes:
    """Return the answer to a protocol v2 ls-refs command; HEAD points to main."""
    lines = [
        f"{target} {name}{' symref-target:refs/heads/main' if name == 'HEAD' else ''}\n".encode()
        for name, target in refs
    ]
    return b"".join(pkt(line) for line in lines) + FLUSH


def sideband(data: bytes, channel: int = 1, size: int = 65_000) -> Iterator[bytes]:
    """Yield the pkt-lines that carry ``data`` on one channel."""
    for start in range(0, len(data), size):
        yield pkt(bytes([channel]) + data[start : start + size])


def pack_of(*objects: tuple[int, bytes]) -> bytes:
    """Return a pack of whole objects, each its type number and content (gitformat-pack(5))."""
    pack = b"PACK" + struct.pack(">II", 2, len(objects))
    for kind, content in objects:
        size = len(content)
        byte, size = kind << 4 | size & 15, size >> 4
        while size:
            pack += bytes([byte | 0x80])
            byte, size = size & 0x7F, size >> 7
        pack += bytes([byte]) + zlib.compress(content)
    return pack + hashlib.sha1(pack, usedforsecurity=False).digest()


Answer = Callable[[Exchange], None]


class HostileServer(HttpServer):
    """Calls ``answer`` for every request.

    :param answer: sends the answer; closes the connection by raising ``ConnectionError``.
    :param tls_context: speak TLS with it.
    :param greet: is called with every new connection instead of reading a request from it.
    """

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        tls_context: ssl.SSLContext | None = None,
        greet: Callable[[socket.socket, threading.Event], None] | None = None,
    ) -> None:
        self._answer = answer
        self._greet = greet
        super().__init__(tls_context=tls_context)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}/owner/repository.git"

    def converse(self, connection: socket.socket) -> None:
        """Greet the client, or read its requests."""
        if self._greet is not None:
            self._greet(connection, self.stopping)
        else:
            super().converse(connection)

    def answer(self, exchange: Exchange) -> None:
        """Answer as the test wants."""
        assert self._answer is not None
        self._answer(exchange)


def v2_server(
    refs: Refs = (("HEAD", ID), ("refs/heads/main", ID)),
    pack: Callable[[Exchange], Iterable[bytes]] = lambda exchange: sideband(pack_of()),
) -> Answer:
    """Return the answers of a well-behaved protocol v2 server, apart from the pieces of its fetch answer.

    :param pack: yields what comes after the ``packfile`` line.
    """

    def answer(exchange: Exchange) -> None:
        if exchange.is_advertisement:
            exchange.answer(capabilities(), ADVERTISEMENT)
        elif exchange.is_ls_refs:
            exchange.answer(ls_refs(refs), RESULT)
        else:
            exchange.stream(_packfile(pack(exchange)), RESULT)

    def _packfile(pieces: Iterable[bytes]) -> Iterator[bytes]:
        yield pkt(b"packfile\n")
        yield from pieces
        yield FLUSH

    return answer
