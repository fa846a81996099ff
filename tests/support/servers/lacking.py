"""A real upload-pack on loopback that lacks capabilities: it does not tell them, and refuses who names them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.servers.hostile import ADVERTISEMENT, FLUSH, RESULT, SERVICE_LINE, HostileServer, pkt
from tests.support.servers.http_server import Exchange

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}


def packets(data: bytes) -> list[bytes | None]:
    """Return the pkt-lines of an answer; ``None`` stands for a flush."""
    lines: list[bytes | None] = []
    at = 0
    while at < len(data):
        size = int(data[at : at + 4], 16)
        lines.append(data[at + 4 : at + size] if size >= 4 else None)
        at += max(size, 4)
    return lines


class LackingServer(HostileServer):
    """Serves one repository without some of upload-pack's capabilities.

    :param lacks: returns whether the capability of a name is left out, in version 2 ``command`` or ``command=feature``.
    :param version: 0, 1 or 2, whatever the client asks for.
    :param has_service_line: start version 2 with the line that gitprotocol-http(5) asks for.
    """

    def __init__(
        self,
        repository: Path,
        lacks: Callable[[bytes], bool] = lambda name: False,
        *,
        version: int = 2,
        has_service_line: bool = True,
    ) -> None:
        self.lacks = lacks
        self.told: set[bytes] = set()
        """Capabilities that were told."""
        self.refused: list[bytes] = []
        """Requests that named what was not told."""
        self._repository = repository
        self._version = version
        self._has_service_line = has_service_line
        super().__init__(self._play)

    def _play(self, exchange: Exchange) -> None:
        if exchange.is_advertisement:
            told = packets(self._upload_pack(b"", "--http-backend-info-refs"))
            lines = self._v2(told) if self._version == 2 else self._v0(told)
            start = pkt(SERVICE_LINE) + FLUSH if self._has_service_line else b""
            body = b"".join(FLUSH if line is None else pkt(line) for line in lines)
            exchange.answer(start + body, ADVERTISEMENT)
        elif self._names_too_much(exchange.body):
            self.refused.append(exchange.body)
            exchange.answer(pkt(b"ERR unknown capability"), RESULT)
        else:
            exchange.answer(self._upload_pack(exchange.body), RESULT)

    def _v0(self, lines: list[bytes | None]) -> list[bytes | None]:
        at = 1 if self._version == 1 else 0
        first = lines[at]
        assert first is not None
        ref, _, told = first.rstrip(b"\n").partition(b"\0")
        kept = [one for one in told.split() if not self.lacks(one.partition(b"=")[0])]
        self.told = {one.partition(b"=")[0] for one in kept}
        changed = ref + (b"\0" + b" ".join(kept) if kept else b"") + b"\n"
        return [*lines[:at], changed, *lines[at + 1 :]]

    def _v2(self, lines: list[bytes | None]) -> list[bytes | None]:
        kept: list[bytes | None] = []
        for line in lines:
            name, _, value = (line or b"").rstrip(b"\n").partition(b"=")
            if line is None or name.startswith(b"version"):
                kept.append(line)
            elif not self.lacks(name):
                if name in (b"ls-refs", b"fetch"):
                    value = b" ".join(one for one in value.split() if not self.lacks(name + b"=" + one))
                    self.told |= {name + b"=" + one for one in value.split()}
                self.told.add(name)
                kept.append(name + (b"=" + value if value else b"") + b"\n")
        return kept

    def _names_too_much(self, body: bytes) -> bool:
        lines = [line.rstrip(b"\n") for line in packets(body) if line is not None]
        if self._version == 2:
            command = lines[0].removeprefix(b"command=")
            named = {command, *(line.partition(b"=")[0] for line in lines[1:] if b"=" in line)}
            if any(line.startswith(b"deepen") for line in lines):
                named.add(b"fetch=shallow")
            return not named <= self.told
        wants = [line for line in lines if line.startswith(b"want ")]
        named = {one.partition(b"=")[0] for one in wants[0].split()[2:]}
        if any(line.startswith(b"deepen") for line in lines):
            named.add(b"shallow")
        return not named <= self.told

    def _upload_pack(self, given: bytes, *options: str) -> bytes:
        environment = ENVIRONMENT | ({"GIT_PROTOCOL": f"version={self._version}"} if self._version else {})
        command = ["git", "upload-pack", "--stateless-rpc", *options, str(self._repository)]
        return subprocess.run(command, input=given, env=environment, stdout=subprocess.PIPE, check=False).stdout
