"""A server on loopback that says whatever a test wants, byte by byte, and the pieces of Git's protocol to say it with.

::

    def answer(exchange: Exchange) -> None:
        exchange.answer(advertisement([("refs/heads/main", ID)]), ADVERTISEMENT)

    with HostileServer(answer) as server:
        ...
"""

from __future__ import annotations

import hashlib
import select
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from coderepos.git.network_policy import NetworkPolicy

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


@dataclass
class Exchange:
    """One request and the connection that takes the answer."""

    connection: socket.socket
    stopping: threading.Event
    """Set when the server is closed; endless answers look at it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def is_advertisement(self) -> bool:
        return "/info/refs" in self.path

    @property
    def is_ls_refs(self) -> bool:
        return b"command=ls-refs" in self.body

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.connection.sendall(data)

    def head(self, status: int = 200, **headers: str) -> None:
        """Send status line and headers; an underscore in a name stands for a hyphen."""
        lines = [f"HTTP/1.1 {status} x", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def answer(self, body: bytes, content_type: str, status: int = 200, **headers: str) -> None:
        """Send a whole answer with its length."""
        self.head(status, Content_Type=content_type, Content_Length=str(len(body)), **headers)
        self.send(body)

    def stream(self, pieces: Iterable[bytes], content_type: str) -> None:
        """Send an answer in chunks, one per piece."""
        self.head(Content_Type=content_type, Transfer_Encoding="chunked")
        for piece in pieces:
            if self.stopping.is_set():
                return
            self.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.send(b"0\r\n\r\n")

    def wait(self, seconds: float) -> bool:
        """Wait, and return whether the server goes on."""
        return not self.stopping.wait(seconds)


Answer = Callable[[Exchange], None]


class HostileServer:
    """Calls ``answer`` for every request, in a thread per connection.

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
        self.requests: list[Exchange] = []
        self.connections = 0
        self._answer = answer
        self._tls_context = tls_context
        self._greet = greet
        self._stopping = threading.Event()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def url(self) -> str:
        return f"{'http' if self._tls_context is None else 'https'}://{self.host}/owner/repository.git"

    def policy(self, *, ca_bundle: str | None = None) -> NetworkPolicy:
        """Return the policy under which this server may be asked."""
        return NetworkPolicy(private_hosts=(self.host,), insecure_http_hosts=(self.host,), ca_bundle=ca_bundle)

    def __enter__(self) -> Self:
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._accepting.join(5)
        self._listener.close()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            if select.select([self._listener], [], [], 0.02)[0]:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._greet is not None:
                self._greet(connection, self._stopping)
                return
            if self._tls_context is not None:
                connection = self._tls_context.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as reader:
                while not self._stopping.is_set() and (line := reader.readline()):
                    method, path, _ = line.decode("latin-1").split(" ", 2)
                    headers = {}
                    while (header := reader.readline().strip()) and b":" in header:
                        name, value = header.decode("latin-1").split(":", 1)
                        headers[name.lower()] = value.strip()
                    body = reader.read(int(headers.get("content-length", 0)))
                    exchange = Exchange(connection, self._stopping, method, path, headers, body)
                    self.requests.append(exchange)
                    assert self._answer is not None
                    self._answer(exchange)
        except OSError:
            return  # the client hung up, or the test is over
        finally:
            connection.close()


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
