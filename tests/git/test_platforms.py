from __future__ import annotations

import json
import time
from base64 import b64encode
from typing import Any

import pytest

from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.platforms import KNOWN_HOSTS, KnownHost, platform_of
from coderepos.git.transport.platform_api import PlatformInfo, expiry_from_headers, query_repository, query_token_expiry
from coderepos.git.url import parse_git_url
from tests.support.servers.hostile import Answer, HostileServer
from tests.support.servers.http_server import Exchange

NOTHING = PlatformInfo()


@pytest.mark.parametrize(
    ("host", "platform"),
    [
        ("github.com", "github"),
        ("GitHub.com", "github"),
        ("gitlab.com", "gitlab"),
        ("bitbucket.org", "bitbucket"),
        ("codeberg.org", "gitea"),
        ("gitlab.example.org", "generic"),
        ("github.com.example.org", "generic"),
        ("api.github.com", "generic"),
    ],
)
def test_platform_of(host: str, platform: str) -> None:
    """Known hosts are recognised by their whole name, nothing is guessed from a part of it."""
    assert platform_of(parse_git_url(f"https://{host}/a/b", NetworkPolicy())) == platform


def test_platform_on_another_port_is_another_host() -> None:
    """What answers on another port of a known host is not the platform."""
    url = parse_git_url("https://github.com:8443/a/b", NetworkPolicy(allowed_hosts=("github.com:8443",)))

    assert platform_of(url) == "generic"


def ask(
    answer: Answer,
    *,
    platform: str = "github",
    path: str = "owner/repo.git",
    credentials: tuple[str, str] = ("", ""),
    **changes: Any,
) -> tuple[PlatformInfo, list[Exchange]]:
    """Ask a fake API under the name of a known host; return what came of it and the requests."""
    with HostileServer(answer) as api:
        policy = NetworkPolicy(private_hosts=(api.host,), insecure_http_hosts=(api.host,))
        url = parse_git_url(f"https://git.example/{path}", policy)
        hosts = {"git.example": KnownHost(platform=platform, api=f"http://{api.host}/api")}
        return query_repository(url, policy, credentials, hosts=hosts, **changes), api.requests


def says(value: object, **headers: str) -> Answer:
    return lambda exchange: exchange.answer(json.dumps(value).encode(), "application/json", 200, **headers)


@pytest.mark.parametrize(
    ("platform", "path", "answer", "request_path", "size_bytes"),
    [
        ("github", "owner/repo", {"size": 12}, "/api/owner/repo", 12 * 1_024),
        ("gitea", "owner/repo.git", {"size": 12}, "/api/owner/repo", 12 * 1_024),
        ("bitbucket", "owner/repo.git", {"size": 12}, "/api/owner/repo", 12),
        (
            "gitlab",
            "group/sub/repo.git",
            {"statistics": {"repository_size": 12}},
            "/api/group%2Fsub%2Frepo?statistics=true",
            12,
        ),
        ("gitlab", "group/c%2B%2B", {"statistics": {}}, "/api/group%2Fc%2B%2B?statistics=true", None),
        ("gitlab", "group/repo", {"size": 5}, "/api/group%2Frepo?statistics=true", None),
    ],
)
def test_size(platform: str, path: str, answer: object, request_path: str, size_bytes: int | None) -> None:
    """Each platform is asked in its own way, in one request, and its figure is turned into bytes."""
    told, requests = ask(says(answer), platform=platform, path=path)

    assert [(request.method, request.path) for request in requests] == [("GET", request_path)]
    assert told.size_bytes == size_bytes


@pytest.mark.parametrize(
    ("platform", "credentials", "header"),
    [
        ("github", ("tok", ""), "Bearer tok"),
        ("github", ("me", "tok"), "Bearer tok"),
        ("gitlab", ("oauth2", "tok"), "Bearer tok"),
        ("gitea", ("git", "tok"), "Bearer tok"),
        ("bitbucket", ("x-token-auth", "tok"), "Bearer tok"),
        ("bitbucket", ("me", "tok"), "Basic " + b64encode(b"me:tok").decode()),
        ("github", ("", ""), None),
    ],
)
def test_token_form(platform: str, credentials: tuple[str, str], header: str | None) -> None:
    """The token goes to the API in the form that the platform expects, and nothing goes where there is none."""
    _, requests = ask(says({}), platform=platform, credentials=credentials)

    assert requests[0].headers.get("authorization") == header


@pytest.mark.parametrize(
    "answer",
    [
        says({}),
        says([]),
        says(None),
        says({"size": "12"}),
        says({"size": -1}),
        says({"size": True}),
        says({"size": 1.5}),
        says({"size": 10**30}),
        says({"size": {}}),
        says({"size": 12}, Content_Encoding="gzip"),
        lambda exchange: exchange.answer(b"{", "application/json"),
        lambda exchange: exchange.answer(b"\xff", "application/json"),
        lambda exchange: exchange.answer(b"[" * 100_000, "application/json"),
        lambda exchange: exchange.answer(b"1" * 100_000, "application/json"),
        lambda exchange: exchange.answer(b'{"size": 12}' + b" " * 2_000_000, "application/json"),
        lambda exchange: exchange.answer(b'{"size": 12}', "text/html"),
        lambda exchange: exchange.answer(b'{"size": 12}', "application/json", 403),
        lambda exchange: exchange.answer(b'{"size": 12}', "application/json", 429),
        lambda exchange: exchange.answer(b"", "application/json", 302, Location="http://127.0.0.1:1/"),
        lambda exchange: exchange.send(b"nonsense\r\n\r\n"),
    ],
)
def test_odd_answers_are_ignored(answer: Answer) -> None:
    """Whatever else an API says counts as nothing."""
    assert ask(answer)[0] == NOTHING


def test_slow_api_is_ignored() -> None:
    """An API that takes too long is given up."""

    def stall(exchange: Exchange) -> None:
        exchange.wait(20)

    started = time.monotonic()

    assert ask(stall, seconds=0.3)[0] == NOTHING
    assert time.monotonic() - started < 2


def test_odd_token_is_not_sent() -> None:
    """A token that fits no header is not sent at all."""
    told, requests = ask(says({"size": 1}), credentials=("me", "to\r\nk"))

    assert (told, requests) == (NOTHING, [])


@pytest.mark.parametrize("path", ["owner", "owner/repo/more"])
def test_paths_that_name_no_repository_of_the_platform(path: str) -> None:
    """Nothing is asked where the path has not the platform's form."""
    assert ask(says({"size": 1}), path=path) == (NOTHING, [])


def test_unknown_host_is_not_asked() -> None:
    """A host that the table does not have costs no request."""
    url = parse_git_url("https://gitlab.example.org/a/b", NetworkPolicy())

    assert query_repository(url, NetworkPolicy(), ("", "")) == NOTHING


def test_api_host_has_to_be_allowed_too() -> None:
    """With an allow-list that names the Git host alone, its API on another host is not asked."""

    def resolver(host: str, port: int, **options: object) -> Any:
        raise AssertionError(f"{host} was looked up")

    policy = NetworkPolicy(allowed_hosts=("github.com",))
    url = parse_git_url("https://github.com/a/b", policy)

    assert query_repository(url, policy, ("tok", ""), resolver=resolver) == NOTHING


def test_known_apis_are_https_on_the_platforms_own_domain() -> None:
    """A token can reach nobody but the platform it is for."""
    for host, known in KNOWN_HOSTS.items():
        api = parse_git_url(known.api, NetworkPolicy())
        assert api.scheme == "https"
        assert f".{api.host}".endswith(f".{host}")


def test_known_token_apis_are_at_the_git_hosts_own_origin() -> None:
    """The question about the token needs no host and no port besides those of the repository."""
    told = {host: known.token_api for host, known in KNOWN_HOSTS.items() if known.token_api}

    assert list(told) == ["gitlab.com"]
    for host, token_api in told.items():
        repository, api = (
            parse_git_url(f"https://{host}/a/b", NetworkPolicy()),
            parse_git_url(token_api, NetworkPolicy()),
        )
        assert (api.scheme, api.host, api.port) == (repository.scheme, repository.host, repository.port)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2031-02-03 04:05:06 UTC", "2031-02-03T04:05:06Z"),
        ("2031-02-03 04:05:06 -0700", "2031-02-03T11:05:06Z"),
        ("2031-02-03 04:05:06 +0530", "2031-02-02T22:35:06Z"),
        ("2031-02-30 04:05:06 UTC", None),
        ("0001-01-01 00:00:00 +1400", None),
        ("2031-02-03", None),
        ("2031-02-03 04:05:06 UTC\x1b[31m", None),
        ("", None),
    ],
)
def test_token_expiry(text: str, moment: str | None) -> None:
    """The end of a token's life is told in UTC, and only where it is well formed."""
    assert expiry_from_headers({"github-authentication-token-expiration": text}) == moment


def test_no_token_expiry() -> None:
    """Most answers have no such header."""
    assert expiry_from_headers({}) is None


def ask_expiry(
    answer: Answer, *, credentials: tuple[str, str] = ("oauth2", "tok"), **changes: Any
) -> tuple[str | None, list[Exchange]]:
    """Ask a fake API under the name of a known GitLab when the token expires; return that and the requests."""
    with HostileServer(answer) as api:
        policy = NetworkPolicy(private_hosts=(api.host,), insecure_http_hosts=(api.host,))
        url = parse_git_url("https://git.example/group/sub/repo.git", policy)
        hosts = {
            "git.example": KnownHost(
                platform="gitlab", api="http://127.0.0.1:1/projects", token_api=f"http://{api.host}/tokens/self"
            )
        }
        return query_token_expiry(url, policy, credentials, hosts=hosts, **changes), api.requests


def test_gitlab_tells_the_day() -> None:
    """One request with the token alone; the token is over when the day that is named begins in UTC."""
    told, requests = ask_expiry(says({"id": 4, "active": True, "expires_at": "2031-02-03"}))

    assert told == "2031-02-03T00:00:00Z"
    assert [(one.method, one.path, one.headers["authorization"]) for one in requests] == [
        ("GET", "/tokens/self", "Bearer tok")
    ]


@pytest.mark.parametrize(
    "answer",
    [
        says({"expires_at": None}),
        says({}),
        says([]),
        says(None),
        says("2031-02-03"),
        says({"expires_at": "2031-02-30"}),
        says({"expires_at": "0000-01-01"}),
        says({"expires_at": "2031-2-3"}),
        says({"expires_at": "20310203"}),
        says({"expires_at": "2031-W06-1"}),
        says({"expires_at": "2031-02-03\n"}),
        says({"expires_at": "2031-02-03T04:05:06Z"}),
        says({"expires_at": "٢٠٣١-02-03"}),
        says({"expires_at": 20310203}),
        says({"expires_at": {}}),
        says({"expires_at": "2031-02-03"}, Content_Encoding="gzip"),
        lambda exchange: exchange.answer(b"{", "application/json"),
        lambda exchange: exchange.answer(b"\xff", "application/json"),
        lambda exchange: exchange.answer(b"[" * 100_000, "application/json"),
        lambda exchange: exchange.answer(b'{"expires_at": "2031-02-03"}' + b" " * 2_000_000, "application/json"),
        lambda exchange: exchange.answer(b'{"expires_at": "2031-02-03"}', "text/html"),
        *(
            lambda exchange, status=status: exchange.answer(b'{"expires_at": "2031-02-03"}', "application/json", status)
            for status in (201, 401, 403, 404, 429, 500)
        ),
        lambda exchange: exchange.send(b"nonsense\r\n\r\n"),
    ],
)
def test_odd_answers_about_the_token_are_ignored(answer: Answer) -> None:
    """A token without an end, a refusal and whatever else is said count as nothing told."""
    told, requests = ask_expiry(answer)

    assert told is None
    assert len(requests) == 1


def test_slow_answer_about_the_token_is_ignored() -> None:
    """An API that takes too long, or trickles, is given up."""

    def trickle(exchange: Exchange) -> None:
        exchange.head(Content_Type="application/json", Content_Length="1000")
        while exchange.wait(0.05):
            exchange.send(b" ")

    for answer in (trickle, lambda exchange: exchange.wait(20)):
        started = time.monotonic()
        assert ask_expiry(answer, seconds=0.3)[0] is None
        assert time.monotonic() - started < 2


def test_token_is_asked_about_at_the_origin_of_the_table_alone() -> None:
    """No redirect takes the token elsewhere."""
    with HostileServer(says({"expires_at": "2031-02-03"})) as elsewhere:
        told, requests = ask_expiry(
            lambda exchange: exchange.answer(
                b"", "application/json", 302, Location=f"http://{elsewhere.host}/tokens/self"
            )
        )

    assert (told, len(requests), elsewhere.connections) == (None, 1, 0)


@pytest.mark.parametrize("credentials", [("", ""), ("oauth2", "to\r\nk"), ("oauth2", "t\u0142k")])
def test_no_question_without_a_token(credentials: tuple[str, str]) -> None:
    """Where no token is given, or one that fits no header, nothing is sent."""
    assert ask_expiry(says({"expires_at": "2031-02-03"}), credentials=credentials) == (None, [])


@pytest.mark.parametrize(
    "host", ["gitlab.example.org", "gitlab.com.example.org", "gitlab.com:8443", "github.com", "codeberg.org"]
)
def test_no_question_about_the_token_elsewhere(host: str) -> None:
    """Hosts that are unknown, or known to have no such URL, are not asked about the token."""

    def resolver(host: str, port: int, **options: object) -> Any:
        raise AssertionError(f"{host} was looked up")

    policy = NetworkPolicy(allowed_hosts=(host, "gitlab.com"))

    assert (
        query_token_expiry(parse_git_url(f"https://{host}/a/b", policy), policy, ("git", "tok"), resolver=resolver)
        is None
    )


def test_gitlab_itself_is_asked() -> None:
    """The table's own entry leads to a request to gitlab.com."""
    asked = []

    def resolver(host: str, port: int, **options: object) -> Any:
        asked.append((host, port))
        raise OSError

    url = parse_git_url("https://gitlab.com/group/repo", NetworkPolicy())

    assert query_token_expiry(url, NetworkPolicy(), ("oauth2", "tok"), resolver=resolver) is None
    assert asked == [("gitlab.com", 443)]
