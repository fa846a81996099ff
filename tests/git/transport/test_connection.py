from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from coderepos.exceptions import RemoteCertificate, RemoteProtocolError, RemoteTimeout, RemoteUnreachable
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.transport.http_connection import GuardedConnection
from coderepos.git.transport.meter import Meter
from coderepos.git.url import GitUrl, parse_git_url
from tests.support.servers.hostile import HostileServer
from tests.support.servers.http_server import Exchange

Answers = list[tuple[Any, ...]]


def too_much(received_bytes: int) -> RemoteProtocolError:
    return RemoteProtocolError(reason="too much", received_bytes=received_bytes)


def meter(*, seconds: float = 5, allowed_bytes: int = 10**6) -> Meter:
    return Meter(seconds=seconds, receive_seconds=seconds, allowed_bytes=allowed_bytes, error=too_much)


def connection_to(
    server: HostileServer, name: str = "git.example", *, private: bool = True, resolver: Any, **changes: Any
) -> tuple[GuardedConnection, str]:
    """Return a connection to the server under a host name that ``resolver`` answers for, and the one URL it serves."""
    host = f"{name}:{server.host.rpartition(':')[2]}"
    policy = NetworkPolicy(private_hosts=(host,) if private else (), insecure_http_hosts=(host,))
    url = parse_git_url(f"http://{host}/r", policy)
    target = f"{url.base}/info/refs"
    connection = GuardedConnection(
        url,
        policy,
        changes.pop("meter", None) or meter(),
        requests={("GET", target): "text/plain"},
        resolver=resolver,
        **changes,
    )
    return connection, target


def hello(exchange: Exchange) -> None:
    exchange.answer(b"hello", "text/plain")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer(hello) as running:
        yield running


class Resolver:
    """Answers each call with the next of several lists of addresses, and counts."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.calls = 0

    def __call__(self, host: str, port: int, **options: object) -> Answers:
        self.calls += 1
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]


def test_asks_by_number_and_names_the_host(server: HostileServer) -> None:
    """The connection goes to the resolved number, the Host header has the name."""
    connection, target = connection_to(server, resolver=Resolver(["127.0.0.1"]))

    assert connection.request("GET", target, {}).read() == b"hello"
    assert server.requests[0].headers["host"].startswith("git.example:")
    connection.close()


def test_name_is_resolved_once() -> None:
    """A name that changes its address after the first answer is neither asked for again nor followed (H7)."""

    def once(exchange: Exchange) -> None:
        hello(exchange)
        raise ConnectionError

    resolver = Resolver(["127.0.0.1"], ["127.0.0.2"])
    with HostileServer(once) as server:
        connection, target = connection_to(server, resolver=resolver)
        for _ in range(3):
            assert connection.request("GET", target, {}).read() == b"hello"
        connection.close()

        assert server.connections == 3
    assert resolver.calls == 1


def test_private_answer_for_a_public_name(server: HostileServer) -> None:
    """A public name that resolves to this machine is refused before a connection is made."""
    connection, target = connection_to(server, private=False, resolver=Resolver(["127.0.0.1"]))

    with pytest.raises(RemoteUnreachable):
        connection.request("GET", target, {})
    assert server.connections == 0


def test_next_address_is_tried(server: HostileServer) -> None:
    """An address that refuses connections is passed over for the next one."""
    connection, target = connection_to(server, resolver=Resolver(["127.0.0.9", "127.0.0.1"]))

    assert connection.request("GET", target, {}).read() == b"hello"
    connection.close()


class FixedPeer(socket.socket):
    """A socket that says it is connected from one address to another."""

    own = "192.0.2.7"
    peer = "127.0.0.1"

    def getpeername(self) -> Any:
        return (self.peer, 80)

    def getsockname(self) -> Any:
        return (self.own, 1234)


@pytest.mark.parametrize(
    ("own", "peer"), [("192.0.2.7", "10.0.0.1"), ("192.0.2.7", "169.254.169.254"), ("8.8.8.8", "8.8.8.8")]
)
def test_peer_is_checked_after_connecting(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch, own: str, peer: str
) -> None:
    """A connection that ended up elsewhere, or at a public address of this machine, is closed unused."""
    monkeypatch.setattr(FixedPeer, "own", own)
    monkeypatch.setattr(FixedPeer, "peer", peer)
    monkeypatch.setattr("coderepos.git.transport.connection.socket.socket", FixedPeer)
    # The table lets the loopback address pass here, so that only the second check can refuse.
    monkeypatch.setattr(
        "coderepos.git.transport.connection.resolve",
        lambda host, port, **options: [(socket.AF_INET, ("127.0.0.1", port))],
    )
    connection, target = connection_to(server, private=False, resolver=None)

    with pytest.raises(RemoteUnreachable):
        connection.request("GET", target, {})
    assert server.requests == []


def test_other_requests_are_refused(server: HostileServer) -> None:
    """Only the requests that were named in advance are made."""
    connection, target = connection_to(server, resolver=Resolver(["127.0.0.1"]))

    for method, url in (("POST", target), ("GET", f"{target}x"), ("GET", "http://other.example/r/info/refs")):
        with pytest.raises(RemoteProtocolError) as caught:
            connection.request(method, url, {})
        assert caught.value.fields == {"reason": "request outside of the repository"}
    assert server.connections == 0


def test_header_injection_is_refused(server: HostileServer) -> None:
    """A line break in a header value never gets onto the wire."""
    connection, target = connection_to(server, resolver=Resolver(["127.0.0.1"]))

    with pytest.raises(RemoteProtocolError):
        connection.request("GET", target, {"Authorization": "x\r\nX-Evil: 1"})
    assert server.requests == []
    connection.close()


def test_answer_that_nobody_asked_for() -> None:
    """A second answer behind the first is not taken for that to the next request: the connection is given up."""

    def twice(exchange: Exchange) -> None:
        answer = b"HTTP/1.1 200 x\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n"
        exchange.send(answer + b"hello" + answer + b"wrong")

    with HostileServer(twice) as server:
        connection, target = connection_to(server, resolver=Resolver(["127.0.0.1"]))
        for number in (1, 2, 3):
            assert connection.request("GET", target, {}).read() == b"hello"
            assert server.connections == number
        connection.close()


@pytest.mark.parametrize(("size", "connections"), [(50_000, 1), (1_000_000, 2)])
def test_answer_that_is_not_read_to_its_end(size: int, connections: int) -> None:
    """A little that is left of an answer is read, so that its connection is kept; much is not."""
    with HostileServer(lambda exchange: exchange.answer(b"x" * size, "text/plain")) as server:
        connection, target = connection_to(server, resolver=Resolver(["127.0.0.1"]), meter=meter(allowed_bytes=10**7))
        for _ in range(2):
            connection.request("GET", target, {})
        connection.close()

        assert server.connections == connections


def test_kept_connection_that_ended_is_replaced_once() -> None:
    """A request is sent again where the connection was kept and ended unanswered, but not again and again."""
    asked: list[str] = []

    def answers(exchange: Exchange) -> None:
        asked.append(exchange.path)
        if len(asked) < 3:
            hello(exchange)
        raise ConnectionError

    with HostileServer(answers) as silent:
        connection, target = connection_to(silent, resolver=Resolver(["127.0.0.1"]))
        for _ in range(2):
            assert connection.request("GET", target, {}).read() == b"hello"
        with pytest.raises(RemoteUnreachable):
            connection.request("GET", target, {})
        connection.close()

    assert len(asked) == 3


def test_meter_counts_every_byte(server: HostileServer) -> None:
    """Status line and headers count as well as the body."""
    counting = meter()
    connection, target = connection_to(server, resolver=Resolver(["127.0.0.1"]), meter=counting)
    connection.request("GET", target, {}).read()
    connection.close()

    whole = b"HTTP/1.1 200 x\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
    assert counting.received_bytes == len(whole)


def test_meter_refuses_the_first_byte_too_many() -> None:
    """Exactly the allowed bytes pass."""
    counting = meter(allowed_bytes=10)
    counting.received(10)

    with pytest.raises(RemoteProtocolError) as caught:
        counting.received(1)
    assert caught.value.fields == {"reason": "too much", "received_bytes": 11}


def test_meter_ends_in_time() -> None:
    """No wait goes beyond the deadline, and after it there is none."""
    counting = Meter(seconds=0.05, receive_seconds=10, allowed_bytes=1, error=too_much)

    assert counting.wait_seconds() <= 0.05
    time.sleep(0.06)
    with pytest.raises(RemoteTimeout):
        counting.wait_seconds()


@pytest.mark.parametrize(
    ("scheme", "host", "port", "header"),
    [
        ("https", "git.example", 443, "git.example"),
        ("http", "git.example", 80, "git.example"),
        ("https", "git.example", 80, "git.example:80"),
        ("https", "2001:db8::1", 443, "[2001:db8::1]"),
        ("https", "2001:db8::1", 8443, "[2001:db8::1]:8443"),
    ],
)
def test_host_header(scheme: str, host: str, port: int, header: str) -> None:
    """The Host header names no port where it is the scheme's own, and brackets an IPv6 address."""
    url = GitUrl(text="", scheme=scheme, host=host, port=port, path="/r")
    connection = GuardedConnection(url, NetworkPolicy(), meter(), requests={})

    assert connection._message("GET", f"{url.base}/x", {}, None).startswith(
        f"GET /r/x HTTP/1.1\r\nHost: {header}\r\n".encode()
    )


@pytest.mark.parametrize("content", ["", "no certificate"])
def test_unreadable_trust_store(server: HostileServer, tmp_path: Any, content: str) -> None:
    """A CA bundle that is missing or none is for the operator to mend, and said to be."""
    bundle = tmp_path / "ca.pem"
    if content:
        bundle.write_text(content)
    policy = NetworkPolicy(private_hosts=(server.host,), ca_bundle=str(bundle))
    url = parse_git_url(f"https://{server.host}/r", policy)
    connection = GuardedConnection(url, policy, meter(), requests={("GET", url.base): "text/plain"})

    with pytest.raises(RemoteCertificate, match="GIT_CA_BUNDLE"):
        connection.request("GET", url.base, {})
    connection.close()
