"""A server on loopback that says what it likes of a repository: what is shallow, and which objects it sends."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.servers.hostile import (
    ADVERTISEMENT,
    FLUSH,
    RESULT,
    V0_CAPABILITIES,
    HostileServer,
    advertisement,
    capabilities,
    ls_refs,
    pkt,
    sideband,
)
from tests.support.servers.http_server import Exchange
from tests.support.servers.lacking import ENVIRONMENT

DELIM = b"0001"


class CuttingServer(HostileServer):
    """Serves the commit ``head`` of a repository as its branch main.

    :param revisions: what ``git rev-list --objects`` is given to list the objects that are sent.
    :param lines: the shallow-info of version 2, or what version 0 says after wants.
    :param advertised: ids of the shallow commits that version 0 tells with its refs.
    :param pack: what is sent instead of these objects.
    """

    def __init__(
        self,
        repository: Path,
        head: str,
        revisions: Sequence[str],
        *,
        lines: Sequence[str] = (),
        advertised: Sequence[str] = (),
        version: int = 2,
        pack: bytes | None = None,
    ) -> None:
        self._pack = pack_of(repository, revisions) if pack is None else pack
        self._refs = [("HEAD", head), ("refs/heads/main", head)]
        self._lines = [pkt(f"{line}\n".encode()) for line in lines]
        self._advertised = [pkt(f"shallow {one}\n".encode()) for one in advertised]
        self._version = version
        super().__init__(self._play)

    def _play(self, exchange: Exchange) -> None:
        if exchange.is_advertisement:
            listed = advertisement(self._refs, V0_CAPABILITIES)[: -len(FLUSH)] + b"".join(self._advertised) + FLUSH
            exchange.answer(capabilities() if self._version == 2 else listed, ADVERTISEMENT)
        elif exchange.is_ls_refs:
            exchange.answer(ls_refs(self._refs), RESULT)
        else:
            exchange.answer(self._packed(exchange), RESULT)

    def _packed(self, exchange: Exchange) -> bytes:
        bands = b"".join(sideband(self._pack)) + FLUSH
        if self._version == 2:
            info = pkt(b"shallow-info\n") + b"".join(self._lines) + DELIM if self._lines else b""
            return info + pkt(b"packfile\n") + bands
        said = b"".join(self._lines) + (FLUSH if b"deepen " in exchange.body else b"")
        if b"0009done\n" not in exchange.body:
            return said  # git asks for the ends of history first, and then once more for all
        return said + pkt(b"NAK\n") + bands


def pack_of(repository: Path, revisions: Sequence[str]) -> bytes:
    """Return a pack of what these revisions reach, or of these very objects where they follow ``--``."""
    if "--" in revisions:
        listed = "\n".join(one for one in revisions if one != "--").encode() + b"\n"
    else:
        command = ["git", "rev-list", "--objects", *revisions]
        listed = subprocess.run(command, cwd=repository, env=ENVIRONMENT, capture_output=True, check=True).stdout
    command = ["git", "pack-objects", "--stdout", "-q"]
    return subprocess.run(
        command, input=listed, cwd=repository, env=ENVIRONMENT, capture_output=True, check=True
    ).stdout
