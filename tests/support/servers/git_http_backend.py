"""A real Git server on loopback: ``git http-backend`` behind a small threaded HTTP server.

::

    with GitServer(tmp_path) as server:
        clone(server.url("repo.git"), policy=server.policy())
        assert [request.path for request in server.requests] == [...]
"""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import weakref
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coderepos.git.network_policy import NetworkPolicy

CHUNK_BYTES = 65_536


@dataclass(frozen=True)
class RecordedRequest:
    """One request as it arrived; names of headers are in lower case."""

    method: str
    path: str
    """Path with its query."""

    headers: dict[str, str]
    body: bytes = field(default=b"", repr=False)


class GitServer:
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
        self.requests: list[RecordedRequest] = []
        """Every request so far, in the order of arrival."""
        self.sent_bytes = 0
        """Bytes of all answers' bodies so far."""
        self.connections = 0
        """TCP connections accepted so far."""
        self.ca_bundle: str | None = None
        """PEM file with the certificate, where the server speaks TLS."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._http = _Server(self)

    def restart(self, *, pause_seconds: float) -> None:
        """Break all connections off, and serve again at the same port after a pause."""
        port = self.port
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self._http.break_off()
        time.sleep(pause_seconds)
        self._http = _Server(self, port)
        self._serve()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def host(self) -> str:
        """``127.0.0.1:port``, as the settings list it."""
        return f"127.0.0.1:{self.port}"

    def url(self, name: str) -> str:
        """Return the URL of the repository in the folder ``name`` below the root."""
        return f"{'https' if self.tls else 'http'}://{self.host}/{name}"

    def policy(self) -> NetworkPolicy:
        """Return the policy under which this server may be asked."""
        return NetworkPolicy(
            private_hosts=(self.host,),
            insecure_http_hosts=() if self.tls else (self.host,),
            ca_bundle=self.ca_bundle,
        )

    def __enter__(self) -> Self:
        if self.tls:
            self._folder = tempfile.TemporaryDirectory()
            certificate, key = write_certificate(Path(self._folder.name))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
            self.ca_bundle = str(certificate)
        self._serve()
        return self

    def _serve(self) -> None:
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        if self.tls:
            self._folder.cleanup()

    def _record(self, request: RecordedRequest) -> None:
        with self._lock:
            self.requests.append(request)

    def _sent(self, size: int) -> None:
        with self._lock:
            self.sent_bytes += size
        if self.bytes_per_second:
            self._stopping.wait(size / self.bytes_per_second)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, owner: GitServer, port: int = 0) -> None:
        self.owner = owner
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        self.owner.connections += 1
        self._open.add(connection)
        return connection, address

    def break_off(self) -> None:
        """End every connection as it is."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: clients that hang up are a part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Stay silent."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self._read_body())

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, body: bytes) -> None:
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        owner._record(RecordedRequest(self.command, self.path, headers, body))
        if owner.credentials and headers.get("authorization") != _basic(*owner.credentials):
            self._start(401, {"WWW-Authenticate": 'Basic realm="git"', "Content-Length": "0"})
            return
        process = subprocess.Popen(
            ["git", "http-backend"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment(headers)
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(body)
                process.stdin.close()
            self._relay(process.stdout)
        finally:
            process.kill()
            process.stdout.close()
            process.wait()

    def _environment(self, headers: dict[str, str]) -> dict[str, str]:
        path, _, query = self.path.partition("?")
        return {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_PROJECT_ROOT": str(self.server.owner.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": headers.get("content-type", ""),
            "CONTENT_LENGTH": headers.get("content-length", ""),
            "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
            "GIT_PROTOCOL": headers.get("git-protocol", "") if self.server.owner.protocol_v2 else "",
            "REMOTE_ADDR": "127.0.0.1",
        }

    def _relay(self, source: Any) -> None:
        owner = self.server.owner
        status, headers = 200, {"Transfer-Encoding": "chunked"}
        while line := source.readline().strip():
            name, value = line.decode("latin-1").split(": ", 1)
            if name == "Status":
                status = int(value.split()[0])
            else:
                headers[name] = value
        deflate: Any = None
        if owner.gzipped:
            headers["Content-Encoding"] = "gzip"
            deflate = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
        self._start(status, headers)
        size = min(CHUNK_BYTES, max(1, (owner.bytes_per_second or CHUNK_BYTES) // 10))
        while not owner._stopping.is_set() and (data := source.read1(size)):
            self._send_chunk(data if deflate is None else deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))
        if deflate is not None:
            self._send_chunk(deflate.flush())
        self.wfile.write(b"0\r\n\r\n")

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.server.owner._sent(len(data))

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, **self.server.owner.headers}.items():
            self.send_header(name, value)
        self.end_headers()


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def write_certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """Write a self-signed certificate for loopback, or for ``names`` instead, and its key; return both paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "coderepos tests")])
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names or ("localhost",)]
    if not names:
        alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "certificate.pem", folder / "key.pem"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_path, key_path


def git(*arguments: str | Path, cwd: Path | None = None, **variables: str) -> str:
    """Run ``git`` apart from any user configuration and return what it prints, stripped."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "GIT_AUTHOR_DATE": "1700000000 +0000",
        "GIT_COMMITTER_DATE": "1700000000 +0000",
        "GIT_TERMINAL_PROMPT": "0",
        **variables,
    }
    done = subprocess.run(
        ["git", *arguments], cwd=cwd, env=environment, check=True, capture_output=True, text=True, timeout=120
    )
    return done.stdout.strip()


def make_repository(path: Path, commits: int = 3, *, branch: str = "main") -> Path:
    """Make a repository with ``commits`` commits on ``branch``, one changed file each; return its path."""
    git("init", "--quiet", f"--initial-branch={branch}", path)
    for number in range(commits):
        (path / "file.txt").write_text(f"line {number}\n" * 50)
        git("add", "-A", cwd=path)
        git("commit", "--quiet", "-m", f"commit {number}", cwd=path, GIT_COMMITTER_DATE=f"{1700000000 + number} +0000")
    return path
