"""An HTTP server on loopback that keeps the requests and lets a subclass answer, byte by byte where it wants."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO

from coderepos.git.network_policy import NetworkPolicy
from tests.support.servers.loopback import LoopbackServer


@dataclass
class Exchange:
    """One request and the connection that takes the answer."""

    connection: socket.socket = field(repr=False)
    stopping: threading.Event = field(repr=False)
    """Set when the server is closed; endless answers look at it."""

    method: str
    path: str
    """Path with its query."""

    headers: dict[str, str]
    """By their names in lower case."""

    body: bytes = field(repr=False)

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
            self.chunk(piece)
        self.send(b"0\r\n\r\n")

    def chunk(self, data: bytes) -> None:
        """Send one chunk."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def wait(self, seconds: float) -> bool:
        """Wait, and return whether the server goes on."""
        return not self.stopping.wait(seconds)


class HttpServer(LoopbackServer):
    """Calls :meth:`answer` for every request of every connection.

    :param tls_context: speak TLS with it.
    """

    def __init__(self, *, tls_context: ssl.SSLContext | None = None) -> None:
        super().__init__(tls_context=tls_context)
        self.requests: list[Exchange] = []
        """Every request so far, in the order of arrival."""

    def answer(self, exchange: Exchange) -> None:
        """Send the answer; ``ConnectionError`` closes the connection instead."""
        raise NotImplementedError

    def policy(self, *, ca_bundle: str | None = None) -> NetworkPolicy:
        """Return the policy under which this server may be asked."""
        return NetworkPolicy(private_hosts=(self.host,), insecure_http_hosts=(self.host,), ca_bundle=ca_bundle)

    def converse(self, connection: socket.socket) -> None:
        """Answer one request after the other, until the client hangs up or asks for the end."""
        stopping = self.stopping
        with connection.makefile("rb") as reader:
            while not stopping.is_set() and (line := reader.readline()):
                method, path, version = line.decode("latin-1").split(" ", 2)
                headers = _headers(reader)
                exchange = Exchange(connection, stopping, method, path, headers, _body(reader, headers))
                self.requests.append(exchange)
                self.answer(exchange)
                if headers.get("connection") == "close" or version.strip() == "HTTP/1.0":
                    return


def _headers(reader: BinaryIO) -> dict[str, str]:
    headers = {}
    while (line := reader.readline().strip()) and b":" in line:
        name, value = line.decode("latin-1").split(":", 1)
        headers[name.lower()] = value.strip()
    return headers


def _body(reader: BinaryIO, headers: dict[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return _exactly(reader, int(headers.get("content-length", 0)))
    body = b""
    while size := int(reader.readline().split(b";")[0] or b"0", 16):
        body += _exactly(reader, size)
        reader.readline()
    reader.readline()
    return body


def _exactly(reader: BinaryIO, size: int) -> bytes:
    if len(data := reader.read(size)) < size:
        raise ConnectionError("the client hung up in the middle of a request")
    return data
