"""A real Git server on loopback: ``git http-backend`` behind a small threaded HTTP server.

::

    with GitServer(tmp_path) as server:
        clone(server.url("repo.git"), policy=server.policy())
        assert [request.path for request in server.requests] == [...]
"""

from __future__ import annotations

import base64
import os
import subprocess
import tempfile
import threading
import zlib
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from coderepos.git.network_policy import NetworkPolicy
from tests.support.servers.certificates import tls_server
from tests.support.servers.http_server import Exchange, HttpServer

CHUNK_BYTES = 65_536


class GitServer(HttpServer):
    """Serves every repository below ``root``, bare or not, read only.

    :param credentials: user name and password that Basic authentication must give; others get a 401.
    :param tls: serve https with a certificate of its own for 127.0.0.1 and localhost (:attr:`ca_bundle`).
    :param bytes_per_second: slow answers down to this rate.
    :param headers: further headers of every answer.
    :param gzipped: compress all answers, whatever was asked for.
    :param protocol_v2: answer in protocol v2 where the client offers it.
    """

    def __init__(
        self,
        root: Path,
        *,
        credentials: tuple[str, str] | None = None,
        tls: bool = False,
        bytes_per_second: int | None = None,
        headers: dict[str, str] | None = None,
        gzipped: bool = False,
        protocol_v2: bool = True,
    ) -> None:
        self.root = root
        self.credentials = credentials
        self.tls = tls
        self.bytes_per_second = bytes_per_second
        self.headers = headers or {}
        self.gzipped = gzipped
        self.protocol_v2 = protocol_v2
        self.sent_bytes = 0
        """Bytes of all answers' bodies so far."""
        self.ca_bundle: str | None = None
        """PEM file with the certificate, where the server speaks TLS."""
        self._lock = threading.Lock()
        context = None
        if tls:
            self._folder = tempfile.TemporaryDirectory()
            context, certificate = tls_server(Path(self._folder.name))
            self.ca_bundle = str(certificate)
        super().__init__(tls_context=context)

    def url(self, name: str) -> str:
        """Return the URL of the repository in the folder ``name`` below the root."""
        return f"{self.scheme}://{self.host}/{name}"

    def policy(self, *, ca_bundle: str | None = None) -> NetworkPolicy:
        """Return the policy under which this server may be asked, by default with its own certificate."""
        return super().policy(ca_bundle=ca_bundle or self.ca_bundle)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            if self.tls:
                self._folder.cleanup()

    def answer(self, exchange: Exchange) -> None:
        """Relay what ``git http-backend`` answers."""
        if self.credentials and exchange.headers.get("authorization") != _basic(*self.credentials):
            exchange.head(401, **{"WWW-Authenticate": 'Basic realm="git"', "Content-Length": "0", **self.headers})
            return
        process = subprocess.Popen(
            ["git", "http-backend"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment(exchange)
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(exchange.body)
                process.stdin.close()
            self._relay(process.stdout, exchange)
        finally:
            process.kill()
            process.stdout.close()
            process.wait()

    def _environment(self, exchange: Exchange) -> dict[str, str]:
        path, _, query = exchange.path.partition("?")
        headers = exchange.headers
        return {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": exchange.method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": headers.get("content-type", ""),
            "CONTENT_LENGTH": headers.get("content-length", ""),
            "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
            "GIT_PROTOCOL": headers.get("git-protocol", "") if self.protocol_v2 else "",
            "REMOTE_ADDR": "127.0.0.1",
        }

    def _relay(self, source: Any, exchange: Exchange) -> None:
        status, headers = 200, {"Transfer-Encoding": "chunked"}
        while line := source.readline().strip():
            name, value = line.decode("latin-1").split(": ", 1)
            if name == "Status":
                status = int(value.split()[0])
            else:
                headers[name] = value
        deflate: Any = None
        if self.gzipped:
            headers["Content-Encoding"] = "gzip"
            deflate = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
        exchange.head(status, **headers, **self.headers)
        size = min(CHUNK_BYTES, max(1, (self.bytes_per_second or CHUNK_BYTES) // 10))
        while not exchange.stopping.is_set() and (data := source.read1(size)):
            data = data if deflate is None else deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)
            self._send_chunk(exchange, data)
        if exchange.stopping.is_set():
            raise ConnectionError("a half answer has no end")
        if deflate is not None:
            self._send_chunk(exchange, deflate.flush())
        exchange.send(b"0\r\n\r\n")

    def _send_chunk(self, exchange: Exchange, data: bytes) -> None:
        exchange.chunk(data)
        with self._lock:
            self.sent_bytes += len(data)
        if self.bytes_per_second:
            exchange.wait(len(data) / self.bytes_per_second)


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
