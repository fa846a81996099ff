"""When a token expires: what a host tells arrives in the reports, and nothing else does."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from coderepos.exceptions import InternalError
from coderepos.git.clone import ChildModules, CloneRequest, clone
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.platforms import KnownHost
from coderepos.git.probe import probe
from coderepos.git.results import token_expiry
from coderepos.git.wire import FetchRequest
from tests.support.fetch_child import fetch_request, run_fetch
from tests.support.git import make_repository
from tests.support.programs.scripted import BUILD, STARTED, outcome
from tests.support.servers.git_http_backend import GitServer
from tests.support.servers.hostile import Answer, HostileServer
from tests.support.servers.http_server import Exchange

pytestmark = pytest.mark.usefixtures("no_children_left")

SCRIPTED = ChildModules(fetch="tests.support.programs.scripted", build="tests.support.programs.scripted")
MOMENT = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)


def request_of(url: str, *, ref: str = "", policy: NetworkPolicy | None = None) -> CloneRequest:
    """Return a request without credentials."""
    return CloneRequest(
        url=url,
        credentials=None,
        ref=ref,
        depth=None,
        policy=policy or NetworkPolicy(),
        limits=Limits(),
        min_level=1,
        group_readable=False,
    )


def scripted(value: object) -> CloneRequest:
    """Return a request that the scripted child answers with ``value`` as the expiry."""
    script = [STARTED, ["send", 3], outcome(stopped_early=False, token_expires_at=value)]
    return request_of("https://git.example/r.git", ref=json.dumps(script))


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("2031-02-03T04:05:06Z", MOMENT),
        ("2031-02-03T06:05:06+02:00", MOMENT),
        (None, None),
        ("0001-01-01T00:00:00+14:00", None),
        ("1999-12-31T23:59:59Z", None),
        ("9999-12-31T23:59:59-14:00", None),
    ],
)
def test_sane_times_are_taken_in_utc(told: str | None, meant: datetime | None) -> None:
    """A time with its offset is read, and a year that no token lives to see is nothing."""
    assert token_expiry({"token_expires_at": told}) == meant
    assert token_expiry({}) is None


@pytest.mark.parametrize(
    "told",
    [
        "",
        "soon",
        "2031-02-03",
        "2031-02-03T04:05:06",
        "2031-02-30T04:05:06Z",
        "2031-02-03T04:05:06Z\n",
        "٢٠٣١-02-03T04:05:06Z",
        "x" * 10_000,
        0,
        1_900_000_000,
        True,
        ["2031-02-03T04:05:06Z"],
    ],
    ids=lambda told: repr(told)[:30],
)
def test_anything_else_is_the_childs_fault(told: object, tmp_path: Path) -> None:
    """A child that says what is no time misbehaves, in a probe and in a clone."""
    with pytest.raises(ValueError):  # noqa: PT011  whichever part refused it
        token_expiry({"token_expires_at": told})
    with pytest.raises(InternalError):
        probe(scripted(told), seconds=20, modules=SCRIPTED)


def test_clone_reports_it(tmp_path: Path) -> None:
    """What fetch tells is in the report of a clone; nonsense ends it."""

    def cloned(told: str) -> Any:
        (tmp_path / "script").write_text(json.dumps(BUILD))
        return clone(scripted(told), incoming=tmp_path, on_progress=lambda progress: None, modules=SCRIPTED)

    assert cloned("2031-02-03T04:05:06Z").token_expires_at == MOMENT
    with pytest.raises(InternalError):
        cloned("tomorrow")


@pytest.mark.parametrize(
    ("header", "meant"),
    [("2031-02-03 06:05:06 +0200", MOMENT), ("2031-02-03 04:05:06 UTC", MOMENT), ("never", None), (None, None)],
)
def test_header_of_a_real_server_arrives(tmp_path: Path, header: str | None, meant: datetime | None) -> None:
    """GitHub's header is read where the repository itself answers, for every host that sends it."""
    make_repository(tmp_path / "source")
    headers = {"github-authentication-token-expiration": header} if header else {}
    with GitServer(tmp_path, headers=headers) as server:
        report = probe(request_of(server.url("source"), policy=server.policy()), seconds=20)

    assert report.token_expires_at == meant


def asking(server: GitServer, api: HostileServer, **changes: Any) -> tuple[FetchRequest, dict[str, KnownHost]]:
    """Return a request with a token, and the table in which the server is a GitLab with this API."""
    both = (server.host, api.host)
    request = fetch_request(
        server,
        server.url("source"),
        policy=NetworkPolicy(private_hosts=both, insecure_http_hosts=both),
        **{"username": "oauth2", "password": "tok", **changes},
    )
    gitlab = KnownHost(platform="gitlab", api=f"http://{api.host}/projects", token_api=f"http://{api.host}/tokens/self")
    return request, {server.host: gitlab}


def gitlab_api(exchange: Exchange) -> None:
    size, expiry = b'{"statistics": {"repository_size": 77}}', b'{"expires_at": "2031-02-03"}'
    exchange.answer(expiry if exchange.path == "/tokens/self" else size, "application/json")


@pytest.mark.parametrize(
    ("changes", "paths", "size_bytes"),
    [
        ({}, ["/tokens/self"], None),
        ({"depth": 1}, ["/tokens/self"], None),
        ({"depth": 1, "count_only": True}, ["/tokens/self"], None),
        (
            {"depth": 1, "count_only": True, "wants_platform_size": True},
            ["/projects/source?statistics=true", "/tokens/self"],
            77,
        ),
    ],
    ids=["clone", "shallow clone", "probe of a shallow clone", "probe"],
)
def test_gitlab_is_asked_by_clones_and_probes(
    tmp_path: Path, changes: dict[str, Any], paths: list[str], size_bytes: int | None
) -> None:
    """Every clone and probe asks for the end of its token; the size is a question for probes alone."""
    make_repository(tmp_path / "source")
    with GitServer(tmp_path) as server, HostileServer(gitlab_api) as api:
        request, hosts = asking(server, api, **changes)
        outcome = run_fetch(request, hosts=hosts).outcome

    assert sorted(exchange.path for exchange in api.requests) == paths
    assert {exchange.headers["authorization"] for exchange in api.requests} == {"Bearer tok"}
    assert outcome["platform_size_bytes"] == size_bytes
    assert token_expiry(outcome) == datetime(2031, 2, 3, tzinfo=UTC)


def test_gitlab_is_not_asked_without_a_token(tmp_path: Path) -> None:
    """A public repository that is cloned without a token costs no further connection."""
    make_repository(tmp_path / "source")
    with GitServer(tmp_path) as server, HostileServer(gitlab_api) as api:
        request, hosts = asking(server, api, username=None, password=None)
        outcome = run_fetch(request, hosts=hosts).outcome

    assert (api.connections, outcome["token_expires_at"]) == (0, None)


@pytest.mark.parametrize(
    "answer",
    [
        lambda exchange: exchange.answer(b'{"message": "401 Unauthorized"}', "application/json", 401),
        lambda exchange: exchange.answer(b'{"expires_at": "tomorrow"}', "application/json"),
        lambda exchange: exchange.wait(20),
    ],
    ids=["refused", "garbage", "slow"],
)
def test_gitlab_that_does_not_tell_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """Whatever comes of the question, the pack arrives, after a bounded wait."""
    monkeypatch.setattr("coderepos.git.transport.platform_queries.API_SECONDS", 0.2)
    make_repository(tmp_path / "source")
    with GitServer(tmp_path) as server, HostileServer(answer) as api:
        request, hosts = asking(server, api)
        started = time.monotonic()
        fetched = run_fetch(request, hosts=hosts)

    assert time.monotonic() - started < 2
    assert fetched.pack
    assert fetched.outcome["token_expires_at"] is None
