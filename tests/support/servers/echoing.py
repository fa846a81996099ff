"""A server on loopback that repeats the credentials that it was sent."""

from __future__ import annotations

import base64
from urllib.parse import quote

from tests.support.servers.hostile import (
    ADVERTISEMENT,
    RESULT,
    HostileServer,
    capabilities,
    pack_of,
    pkt,
    sideband,
    v2_server,
)
from tests.support.servers.http_server import Exchange

ECHOES = ("realm", "status", "body", "redirect", "type", "capability", "error", "progress", "fatal")
"""Where in its answers it repeats them, by the names that its paths have."""


class EchoingServer(HostileServer):
    """Answers as a Git server does until it is told to repeat what it got, in the way that the path names."""

    def __init__(self) -> None:
        self.echoes = False
        self.echoed: set[str] = set()
        super().__init__(self._play)

    def _play(self, exchange: Exchange) -> None:
        mode = exchange.path.split("/")[2]
        if not (self.echoes and self._echo(mode, exchange)):
            v2_server(pack=lambda _: sideband(pack_of()))(exchange)

    def _echo(self, mode: str, exchange: Exchange) -> bool:
        plain = not (exchange.is_advertisement or exchange.is_ls_refs)
        moments = {"error": exchange.is_ls_refs, "progress": plain, "fatal": plain}
        if not moments.get(mode, exchange.is_advertisement):
            return False
        self.echoed.add(mode)  # first: the client may hang up in the middle
        header = exchange.headers.get("authorization", "")
        decoded = base64.b64decode(header.partition(" ")[2]).decode().partition(":")[2]
        repeat(mode, exchange, header, decoded)
        return True

    def repository(self, mode: str) -> str:
        """Return the URL of the repository that answers in ``mode``."""
        return f"http://{self.host}/owner/{mode}/repository.git"


def repeat(mode: str, exchange: Exchange, header: str, token: str) -> None:
    """Answer with the credentials in many forms."""
    text = f"{token} {header} {quote(token)} {token.encode().hex()}"
    data = text.encode()
    match mode:
        case "realm":
            exchange.answer(b"", "text/plain", 401, WWW_Authenticate=f'Basic realm="{token}\x1b[31m{header}"')
        case "status":
            exchange.send(f"HTTP/1.1 500 {text}\r\nContent-Length: 0\r\n\r\n".encode())
        case "body":
            exchange.answer(data, ADVERTISEMENT, 403)
        case "redirect":
            exchange.answer(b"", "text/plain", 302, Location=f"https://git.example/{quote(token)}/{token}")
        case "type":
            exchange.answer(data, f"text/{token}")
        case "capability":
            exchange.answer(capabilities([b"version 2\n", b"agent=" + data + b"\n", data + b"\n"]), ADVERTISEMENT)
        case "error":
            exchange.answer(pkt(b"ERR " + data), RESULT)
        case "progress":
            exchange.stream([pkt(b"packfile\n"), *sideband(data, 2), *sideband(b"PACK" + data), b"0000"], RESULT)
        case "fatal":
            exchange.stream([pkt(b"packfile\n"), *sideband(data, 3), b"0000"], RESULT)
