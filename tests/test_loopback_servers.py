"""The servers of the tests themselves: one that breaks must not look like one that refuses."""

from __future__ import annotations

import os
import socket
import time
from itertools import repeat
from pathlib import Path
from subprocess import PIPE, Popen
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.support.git import git, make_repository
from tests.support.servers.certificates import tls_server
from tests.support.servers.git_http_backend import GitServer
from tests.support.servers.hostile import HostileServer
from tests.support.servers.http_server import Exchange


def test_an_error_of_a_server_fails_the_test() -> None:
    """What goes wrong in the thread of a connection is raised where the server ends."""

    def broken(exchange: Exchange) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), HostileServer(broken) as server, pytest.raises(OSError, match="closed"):
        urlopen(server.url)


@pytest.mark.parametrize("tls", [False, True])
def test_clients_may_hang_up(tmp_path: Path, tls: bool) -> None:
    """Anywhere in a request, in an answer or in a handshake of TLS."""
    posted, got = b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"
    context = tls_server(tmp_path)[0] if tls else None

    with HostileServer(_endless, tls_context=context) as server:
        for request in (b"", b"GET / HTTP/1.1\r\n", posted, got):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(request)


def _endless(exchange: Exchange) -> None:
    exchange.stream(repeat(bytes(65_536)), "text/plain")


def test_a_server_that_restarts_keeps_its_port() -> None:
    """Connections are broken off, and new ones are answered as before."""
    with HostileServer(lambda exchange: exchange.answer(b"yes", "text/plain")) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answer = b""
            while not answer.endswith(b"yes"):
                answer += connection.recv(4_096)
            server.restart(pause_seconds=0)
            assert connection.recv(1) == b""
        assert urlopen(server.url).read() == b"yes"
    with pytest.raises(URLError):
        urlopen(server.url)


def test_an_answer_that_is_broken_off_has_no_end(tmp_path: Path) -> None:
    """A Git server that stops does not make a whole answer of half a pack."""
    repository = make_repository(tmp_path / "repository")
    (repository / "noise").write_bytes(os.urandom(100_000))
    git("add", "-A", cwd=repository)
    git("commit", "--quiet", "-m", "noise", cwd=repository)
    with GitServer(tmp_path, bytes_per_second=50_000) as server:
        done = Popen(["git", "clone", "--quiet", server.url("repository"), tmp_path / "clone"], stderr=PIPE, text=True)
        while server.sent_bytes < 20_000:
            time.sleep(0.01)
    assert "curl" in done.communicate(timeout=10)[1], "it is git that missed the end, not the transfer"
