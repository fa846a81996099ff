"""A Git server on loopback that insists on a token, as the platforms do."""

from __future__ import annotations

import base64
import hmac
import io
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from dulwich.errors import NotGitRepository
from dulwich.repo import Repo
from dulwich.server import Backend, UploadPackHandler
from dulwich.web import make_wsgi_chain

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


class GitServer:
    """Serves the bare repositories in a directory over smart HTTP, read only, to whoever shows the token.

    :param token: what Basic authentication must give as its password; the user name does not matter.
    :param bytes_per_second: how fast answers are sent, or None for as fast as possible.
    """

    def __init__(self, directory: Path, *, token: str, bytes_per_second: int | None = None) -> None:
        application = serving(directory)
        if bytes_per_second:
            application = throttled(application, bytes_per_second=bytes_per_second)
        self._server = make_server(
            "127.0.0.1", 0, protected(application, token=token), server_class=_Server, handler_class=_QuietHandler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    @property
    def host(self) -> str:
        """``127.0.0.1:port``, as the settings list it."""
        return f"127.0.0.1:{self._server.server_port}"

    def url(self, name: str) -> str:
        """Return the address of the repository ``name``."""
        return f"http://{self.host}/{name}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def serving(directory: Path) -> WSGIApplication:
    """Return an application that serves the bare repositories directly in ``directory``."""

    def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with closing(_Directory(directory)) as backend:
            yield from make_wsgi_chain(backend, handlers=HANDLERS)(environ, start_response)

    return serve


def protected(application: WSGIApplication, *, token: str) -> WSGIApplication:
    """Wrap ``application`` so that it answers 401 to everybody without the token."""

    def guard(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if hmac.compare_digest(_password(environ), token.encode()):
            return application(environ, start_response)
        start_response("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="demo"'), ("Content-Type", "text/plain")])
        return [b"A token is needed.\n"]

    return guard


def throttled(application: WSGIApplication, *, bytes_per_second: int) -> WSGIApplication:
    """Wrap ``application`` so that its answers take the time that a line of that speed would need."""

    def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(*arguments: Any) -> Callable[[bytes], object]:
            write = start_response(*arguments)

            def write_slowly(data: bytes) -> object:
                time.sleep(len(data) / bytes_per_second)
                return write(data)

            return write_slowly

        return application(environ, start)

    return slow


def _password(environ: WSGIEnvironment) -> bytes:
    scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except ValueError:
        return b""


class _UploadPack(UploadPackHandler):
    @classmethod
    def required_capabilities(cls) -> tuple[bytes, ...]:
        """Require none, as ``git`` does; dulwich would turn away clients that want no thin packs."""
        return ()


HANDLERS: Final[dict[bytes, Any]] = {b"git-upload-pack": _UploadPack, b"git-receive-pack": None}
"""Fetches are served, pushes are not."""


class _Directory(Backend):
    """Repositories by their names, opened for one request."""

    def __init__(self, directory: Path) -> None:
        self._paths = {f"/{path.name}": path for path in directory.iterdir()}
        self._open: list[Repo] = []

    def open_repository(self, path: bytes | str) -> Repo:
        """Open the repository of this name and no other path."""
        name = path.decode() if isinstance(path, bytes) else path
        if name not in self._paths:
            raise NotGitRepository("There is no such repository.")
        self._open.append(Repo(str(self._paths[name])))
        return self._open[-1]

    def close(self) -> None:
        """Close what was opened."""
        for repository in self._open:
            repository.close()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing, as below."""


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is the superclass's
        """Keep the demo's terminal to the demo."""

    def get_stderr(self) -> TextIO:
        """Say nothing: a probe that has seen enough hangs up in the middle of an answer, and that is its job."""
        return io.StringIO()
