"""Installations that reach Git hosts through a proxy alone.

https://github.com/netbox-community/netbox/issues/12483
https://github.com/nautobot/nautobot/issues/1796
"""

from __future__ import annotations

import base64
import logging
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from coderepos.conf import ConfigurationError
from coderepos.crypto.redaction import redact
from coderepos.engine import network_policy
from coderepos.git.fetch import connect_ports
from coderepos.git.network_policy import NetworkPolicy, Proxy
from coderepos.git.platforms import KNOWN_HOSTS, KnownHost
from coderepos.git.transport.http_connection import GuardedConnection
from coderepos.git.transport.meter import Meter
from coderepos.git.transport.proxy import parse_proxy_url
from coderepos.git.url import parse_git_url
from coderepos.hidden import HiddenText
from tests.support.fetch_child import fetch_request, run_child, run_fetch
from tests.support.git import make_repository
from tests.support.servers.certificates import tls_server
from tests.support.servers.connect_proxy import ConnectProxy
from tests.support.servers.git_http_backend import GitServer
from tests.support.servers.hostile import HostileServer
from tests.support.servers.http_server import Exchange
from tests.support.site import TOKEN, Site

pytestmark = pytest.mark.of_any_database

PASSWORD = "pr0xy-p@ss:wörd"
USERINFO = "corp%5Cdora:pr0xy-p%40ss%3Aw%C3%B6rd@"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server with a private authority."""
    make_repository(tmp_path / "remote" / "source")
    with GitServer(tmp_path / "remote", tls=True, credentials=("git", TOKEN)) as running:
        yield running


def test_connect_and_clone_through_a_proxy(
    site: Site, server: GitServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything goes through the proxy of the settings, under its own credentials; it sees neither token nor path."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with ConnectProxy(credentials=("corp\\dora", PASSWORD)) as proxy:
        site.trust(server, HTTPS_PROXY_URL=HiddenText(proxy.url(USERINFO)))
        answer = site.connect(server.url("source"), access_token=TOKEN)
        assert answer.status_code == 201, answer.json()
        repo_id = answer.json()["repo_id"]
        assert site.work(repo_id) == "succeeded"

        assert set(proxy.targets) == {server.host}
        assert len(proxy.targets) == server.connections == 2
        seen = bytes(proxy.relayed) + "".join(proxy.heads).encode()
    assert TOKEN.encode() not in seen
    assert base64.b64encode(f"git:{TOKEN}".encode()) not in seen
    assert b"/source" not in seen
    assert PASSWORD not in caplog.text
    assert USERINFO not in caplog.text


def test_own_credentials_of_the_proxy_stay_with_it(site: Site, server: GitServer) -> None:
    """The Git host never sees what the proxy is told."""
    with ConnectProxy(credentials=("dora", "proxy-secret")) as proxy:
        site.trust(server, HTTPS_PROXY_URL=proxy.url("dora:proxy-secret@"))
        site.connected(server.url("source"), access_token=TOKEN)

    assert not [request for request in server.requests if "proxy-authorization" in request.headers]


@pytest.mark.parametrize("userinfo", ["", "dora:wrong@", "dora@"])
def test_credentials_that_the_proxy_refuses(
    site: Site, server: GitServer, userinfo: str, caplog: pytest.LogCaptureFixture
) -> None:
    """407 is for the operator: no fault of the user's token, whose status stays, and worth another try."""
    with ConnectProxy() as open_proxy:
        site.trust(server, HTTPS_PROXY_URL=open_proxy.url())
        repo_id = site.connected(server.url("source"), access_token=TOKEN)
    with ConnectProxy(credentials=("dora", "right")) as proxy:
        site.trust(server, HTTPS_PROXY_URL=proxy.url(userinfo))
        answer = site.connect(server.url("source"), access_token=TOKEN, ref="main")
        assert site.work(repo_id) == "retry_scheduled"

    detail = answer.json()["detail"]
    assert (answer.status_code, detail["error"]) == (502, "proxy_unavailable")
    assert "ask its operator" in detail["message"]
    status = site.status(repo_id)
    assert (status["error_code"], status["token_status"]) == ("proxy_unavailable", "ok")
    assert "(proxy credentials)" in caplog.text


ANSWERS = {
    "403": (b"HTTP/1.1 403 no\r\nContent-Length: 0\r\n\r\n", "remote_unreachable"),
    "502": (b"HTTP/1.1 502 no\r\n\r\n", "remote_unreachable"),
    "301": (b"HTTP/1.1 301 x\r\nLocation: https://evil.example/\r\n\r\n", "remote_unreachable"),
    "nothing": (b"", "proxy_unavailable"),
    "no http": (b"SSH-2.0-x\r\n\r\n", "proxy_unavailable"),
    "bare line feeds": (b"HTTP/1.1 200 x\n\n", "proxy_unavailable"),
    "cut off": (b"HTTP/1.1 200", "proxy_unavailable"),
    "head without end": (b"HTTP/1.1 200 x\r\n" + b"X: y\r\n" * 50_000, "proxy_unavailable"),
    "long line": (b"HTTP/1.1 200 x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "proxy_unavailable"),
    "more than a head": (b"HTTP/1.1 200 x\r\n\r\n\x16\x03\x03", "proxy_unavailable"),
    "secret": (b"HTTP/1.1 500 " + PASSWORD.encode("latin-1") + b"\x1b[31m\r\n\r\n", "proxy_unavailable"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_of_a_proxy(site: Site, server: GitServer, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """What the proxy says is bounded and strictly read, and nothing of it is shown."""
    answer, code = ANSWERS[name]
    with ConnectProxy(answer=answer) as proxy:
        site.trust(server, HTTPS_PROXY_URL=proxy.url(USERINFO))
        response = site.connect(server.url("source"), access_token=TOKEN)

    assert response.json()["detail"]["error"] == code
    assert "proxy" in response.json()["detail"]["message"].lower()
    for secret in (PASSWORD, "evil", "\x1b", TOKEN):
        assert secret not in response.text + caplog.text
    assert server.connections == 0


def test_old_proxy(site: Site, server: GitServer) -> None:
    """A proxy may answer in HTTP/1.0, and with any 2xx."""
    with ConnectProxy(greeting=b"HTTP/1.0 299 fine\r\nVia: 1.0 x\r\n\r\n") as proxy:
        site.trust(server, HTTPS_PROXY_URL=proxy.url())
        site.connected(server.url("source"), access_token=TOKEN)


def test_proxy_that_is_not_there(site: Site, server: GitServer) -> None:
    """A closed port or an unknown name is the proxy's fault, and the host is not asked directly instead."""
    for url in ("http://127.0.0.1:9", "http://proxy.invalid:3128"):
        site.trust(server, HTTPS_PROXY_URL=url)
        answer = site.connect(server.url("source"), access_token=TOKEN)
        assert answer.json()["detail"]["error"] == "proxy_unavailable"
    assert server.connections == 0


def test_hosts_that_are_asked_directly(site: Site, server: GitServer) -> None:
    """NO_PROXY_HOSTS keeps a host of the own network from the proxy; a wildcard keeps those below a name."""
    with ConnectProxy() as proxy:
        site.trust(server, HTTPS_PROXY_URL=proxy.url(), NO_PROXY_HOSTS=[server.host])
        site.connected(server.url("source"), access_token=TOKEN)
        assert proxy.targets == []

    policy = NetworkPolicy(proxy=Proxy(host="proxy", port=3128), direct_hosts=("*.corp.example",))
    ports = {
        host: connect_ports(parse_git_url(f"https://{host}/r", policy), policy, KNOWN_HOSTS.get(host))
        for host in ("git.corp.example", "corp.example", "github.com", "gitlab.com")
    }
    assert ports == {"git.corp.example": {443}, "corp.example": {3128}, "github.com": {3128}, "gitlab.com": {3128}}
    assert connect_ports(parse_git_url("https://github.com/a/b", NetworkPolicy()), NetworkPolicy(), None) == {443}


def test_plain_http_does_not_go_through_the_proxy(site: Site, tmp_path: Path) -> None:
    """A host of INSECURE_HTTP_HOSTS is asked directly."""
    make_repository(tmp_path / "remote" / "source")
    with GitServer(tmp_path / "remote") as server, ConnectProxy() as proxy:
        site.trust(server, HTTPS_PROXY_URL=proxy.url())
        site.connected(server.url("source"))
        assert proxy.targets == []


def test_blocked_address_is_not_told_to_the_proxy(site: Site, server: GitServer) -> None:
    """The table of addresses applies to what the proxy is told, whoever resolves names."""
    with ConnectProxy() as proxy:
        hosts = [server.host, "169.254.169.254", "[::1]:443"]
        for resolved in ([], hosts):
            site.trust(
                server, HTTPS_PROXY_URL=proxy.url(), PROXY_RESOLVED_HOSTS=resolved, PRIVATE_GIT_HOSTS=[],
                ALLOWED_GIT_HOSTS=hosts,
            )  # fmt: skip
            for url in (server.url("source"), "https://169.254.169.254/r", "https://[::1]/r"):
                answer = site.connect(url, access_token=TOKEN)
                assert answer.json()["detail"]["error"] == "remote_unreachable"
        assert proxy.targets == []


@pytest.mark.parametrize(("resolves", "hangs_up"), [(False, False), (False, True), (True, False)])
def test_what_the_proxy_is_told(tmp_path: Path, resolves: bool, hangs_up: bool) -> None:
    """The checked addresses until one is reached, or the name where the proxy resolves; TLS has the name."""
    context, certificate = tls_server(tmp_path, "git.example")
    asked: list[str] = []

    def resolver(host: str, port: int, **options: Any) -> Any:
        asked.append(host)
        found = [(socket.AF_INET6, "2606:4700::1"), (socket.AF_INET, "8.8.8.8")]
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in found]

    def hello(exchange: Exchange) -> None:
        exchange.answer(b"hello", "text/plain")

    with HostileServer(hello, tls_context=context) as server:
        port = int(server.host.rpartition(":")[2])

        def reach(target: str) -> tuple[str, int]:
            if target.startswith("["):
                raise OSError("no route")
            return "127.0.0.1", port

        with ConnectProxy(reach=reach, hangs_up=hangs_up) as proxy:
            policy = NetworkPolicy(
                ca_bundle=str(certificate),
                proxy=Proxy(host="127.0.0.1", port=proxy.port),
                proxy_resolved_hosts=("*.example",) if resolves else (),
            )
            url = parse_git_url("https://git.example/r", policy)
            meter = Meter(seconds=5, receive_seconds=5, allowed_bytes=10**6, error=lambda size: AssertionError(size))  # type: ignore[arg-type, return-value]
            connection = GuardedConnection(
                url, policy, meter, requests={("GET", url.base): "text/plain"}, resolver=resolver
            )
            assert connection.request("GET", url.base, {}).read() == b"hello"
            connection.close()

        assert server.requests[0].headers["host"] == "git.example"
    assert asked == ([] if resolves else ["git.example"])
    assert proxy.targets == (["git.example:443"] if resolves else ["[2606:4700::1]:443", "8.8.8.8:443"])


def test_platform_is_asked_through_the_proxy(server: GitServer) -> None:
    """The API of a platform goes the same way as the repository."""
    make_repository(server.root / "owner" / "source")
    host = server.host
    hosts = {host: KnownHost(platform="gitea", api=f"https://{host}/api/v1/repos")}
    with ConnectProxy() as proxy:
        policy = replace(server.policy(), proxy=Proxy(host="127.0.0.1", port=proxy.port))
        url = server.url("owner/source")
        run_fetch(
            fetch_request(server, url, policy=policy, username="git", password=TOKEN, wants_platform_size=True),
            hosts=hosts,
        )
        assert proxy.targets == [host, host]
    assert [request.path for request in server.requests if request.path.startswith("/api/")]


def test_confined_child_connects_to_the_proxy_alone(server: GitServer) -> None:
    """The port that the kernel lets the child connect to is the proxy's, and its password is in no event."""
    with ConnectProxy(credentials=("dora", "proxy-secret")) as proxy:
        way = Proxy(host="127.0.0.1", port=proxy.port, username="dora", password="proxy-secret")
        policy = replace(server.policy(), proxy=way)
        run = run_child(fetch_request(server, server.url("source"), policy=policy, username="git", password=TOKEN))
        assert run.last["event"] == "outcome"
        assert connect_ports(parse_git_url(server.url("source"), policy), policy, None) == {proxy.port}
    assert "proxy-secret" not in f"{run.events} {run.stderr} {policy!r} {request_repr(server, policy)}"


def request_repr(server: GitServer, policy: NetworkPolicy) -> str:
    return repr(fetch_request(server, server.url("source"), policy=policy))


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://proxy:3128", Proxy(host="proxy", port=3128)),
        ("http://Proxy.Example:80/", Proxy(host="proxy.example", port=80)),
        ("http://[2001:db8::1]:8080", Proxy(host="2001:db8::1", port=8080)),
        ("http://u:p@proxy:1", Proxy(host="proxy", port=1, username="u", password="p")),
        ("http://u:@proxy:1", Proxy(host="proxy", port=1, username="u")),
        ("http://u@proxy:1", Proxy(host="proxy", port=1, username="u")),
        ("http://u:p@ss:w@proxy:1", Proxy(host="proxy", port=1, username="u", password="p@ss:w")),
    ],
)
def test_url_of_a_proxy(text: str, proxy: Proxy) -> None:
    """User name and password are decoded, the host is in lower case."""
    assert parse_proxy_url(text) == proxy


@pytest.mark.parametrize(
    "text",
    ["", "proxy:3128", "http://proxy", "https://u:secret@proxy:1", "socks5://proxy:1", "http://proxy:0",
     "http://proxy:65536", "http://u:secret@pro xy:1", "http://u:secret@proxy:1/path", "http://u%3A:secret@proxy:1",
     "http://u:sec\nret@proxy:1"],
)  # fmt: skip
def test_text_that_names_no_proxy(text: str, settings: Settings) -> None:
    """Anything else is refused, fails closed, and is not repeated."""
    with pytest.raises(ValueError, match=r"must look like|colon") as caught:
        parse_proxy_url(text)
    assert "secret" not in str(caught.value)
    if text:
        settings.CODEREPOS = {**settings.CODEREPOS, "HTTPS_PROXY_URL": text}
        with pytest.raises(ConfigurationError) as refused:
            network_policy()
        assert "secret" not in str(refused.value)


def test_password_is_masked(settings: Settings) -> None:
    """Logs mask the password in its usual forms once the settings were read."""
    settings.CODEREPOS = {**settings.CODEREPOS, "HTTPS_PROXY_URL": f"http://{USERINFO}proxy:3128"}
    policy = network_policy()

    pair = base64.b64encode(f"corp\\dora:{PASSWORD}".encode()).decode()
    for text in (PASSWORD, f"http://{USERINFO}proxy:3128", f"Proxy-Authorization: Basic {pair}"):
        shown = redact(f"went wrong: {text}")
        assert PASSWORD not in shown
        assert pair not in shown
        assert "%40ss" not in shown
    assert PASSWORD not in repr(policy)
