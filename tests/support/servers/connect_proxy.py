"""A small real HTTP proxy on loopback that makes tunnels, or answers whatever a test wants."""

from __future__ import annotations

import base64
import select
import socket
from collections.abc import Callable

from tests.support.servers.loopback import LoopbackServer

Reach = Callable[[str], tuple[str, int]]


class ConnectProxy(LoopbackServer):
    """Answers CONNECT with a tunnel.

    :param credentials: user name and password that it insists on.
    :param answer: is sent instead of opening a tunnel; the connection is closed after it.
    :param reach: returns where a target is really connected to; by default where it says.
    :param hangs_up: close the connection where a target cannot be reached, instead of saying so.
    """

    def __init__(
        self,
        *,
        credentials: tuple[str, str] | None = None,
        answer: bytes | None = None,
        reach: Reach | None = None,
        hangs_up: bool = False,
        greeting: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n",
    ) -> None:
        self.targets: list[str] = []
        """What it was told to connect to."""
        self.heads: list[str] = []
        """Requests as they came."""
        self.relayed = bytearray()
        """Bytes of clients that went through tunnels."""
        self._credentials = credentials
        self._answer = answer
        self._reach = reach or split
        self._hangs_up = hangs_up
        self._greeting = greeting
        super().__init__()

    def url(self, userinfo: str = "") -> str:
        """Return the URL for the settings, with user name and password as they are written there."""
        return f"http://{userinfo}{self.host}"

    def converse(self, connection: socket.socket) -> None:
        """Answer the one request of a connection."""
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := connection.recv(4_096)):
                return
            head += data
        self.heads.append(head.decode("latin-1"))
        method, target, _ = self.heads[-1].split(" ", 2)
        self.targets.append(target)
        if self._answer is not None:
            connection.sendall(self._answer)
            self.stopping.wait(0.1)
        elif method != "CONNECT":
            connection.sendall(b"HTTP/1.1 405 no\r\nContent-Length: 0\r\n\r\n")
        elif self._credentials and self._authorization() not in self.heads[-1]:
            connection.sendall(b"HTTP/1.1 407 no\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
        else:
            self._tunnel(connection, target)

    def _authorization(self) -> str:
        pair = ":".join(self._credentials or ())
        return f"\r\nProxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"

    def _tunnel(self, connection: socket.socket, target: str) -> None:
        try:
            other = socket.create_connection(self._reach(target), 5)
        except OSError:
            if not self._hangs_up:
                connection.sendall(b"HTTP/1.1 502 no\r\nContent-Length: 0\r\n\r\n")
            return
        with other:
            connection.sendall(self._greeting)
            while not self.stopping.is_set():
                for ready in select.select([connection, other], [], [], 0.05)[0]:
                    if not (data := ready.recv(65_536)):
                        return
                    if ready is connection:
                        self.relayed += data
                    (other if ready is connection else connection).sendall(data)


def split(target: str) -> tuple[str, int]:
    """Return host and port of ``host:port``."""
    host, _, port = target.rpartition(":")
    return host.strip("[]"), int(port)
