"""Nothing is imported once a child was forked, whatever comes of what it does."""

from __future__ import annotations

import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from coderepos.git.limits import Limits
from coderepos.git.process.child import Child, starting
from coderepos.git.wire import BuildRequest, SearchRequest, dump_line, request_line
from tests.support import packs
from tests.support.build_child import outcome_of
from tests.support.fetch_child import fetch_request
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer
from tests.support.servers.hostile import HostileServer

pytestmark = pytest.mark.usefixtures("no_children_left")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a repository."""
    root = tmp_path_factory.mktemp("served")
    make_repository(root / "repository")
    return root


def imported(module: str, *lines: bytes, pack: bytes | None = None) -> tuple[list[str], dict[str, Any]]:
    """Run a real child; return what it imported, and its last event."""
    source = os.open(os.devnull, os.O_WRONLY) if pack is None else packs.descriptor(pack)
    with starting():
        child = Child("test", "tests.support.programs.importing", source)
    os.close(source)
    events: list[dict[str, Any]] = []
    with child:
        child.send(b"".join((f"{module}\n".encode(), *lines)), last=True)
        child.exit_status(within_seconds=20)
        events += child.read_events()
    return events[-1]["imported"], events[-2]


def fetched(server: Any, url: str, **changes: Any) -> tuple[list[str], dict[str, Any]]:
    return imported("coderepos.git.fetch", request_line(fetch_request(server, url, **changes)))


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("protocol_v2", [False, True])
def test_a_fetch_imports_nothing(served: Path, *, tls: bool, protocol_v2: bool) -> None:
    """Neither with a certificate of its own, nor with a token, nor by a name that is looked up."""
    with GitServer(served, tls=tls, protocol_v2=protocol_v2, credentials=("git", "token"), gzipped=tls) as server:
        url = server.url("repository").replace("127.0.0.1", "localhost")
        policy = server.policy()
        hosts = (*policy.private_hosts, server.host.replace("127.0.0.1", "localhost"))
        policy = replace(policy, private_hosts=hosts, insecure_http_hosts=() if tls else hosts)
        request = fetch_request(server, url, username="git", password="token", policy=policy)
        found, last = imported("coderepos.git.fetch", request_line(request))

    assert last["event"] == "outcome", last
    assert found == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"ref": "missing"}, "ref_not_found"), ({"password": "wrong"}, "remote_auth_failed"), ({}, "remote_auth_failed")],
)
def test_a_fetch_that_fails_imports_nothing(served: Path, changes: dict[str, Any], code: str) -> None:
    """Nor does what makes an event of an error."""
    if code == "ref_not_found":
        changes |= {"username": "git", "password": "token"}
    with GitServer(served, credentials=("git", "token")) as server:
        found, last = fetched(server, server.url("repository"), **changes)

    assert last["code"] == code
    assert found == []


def test_a_fetch_without_trust_imports_nothing(served: Path) -> None:
    """The authorities of the system refuse a certificate of its own."""
    with GitServer(served, tls=True) as server:
        request = fetch_request(server, server.url("repository"), policy=replace(server.policy(), ca_bundle=None))
        found, last = imported("coderepos.git.fetch", request_line(request))

    assert last["code"] == "remote_certificate"
    assert found == []


def test_a_fetch_from_a_hostile_host_imports_nothing() -> None:
    """A status that nobody expects, with headers to be read."""
    with HostileServer(lambda exchange: exchange.head(429, **{"Retry-After": "Wed, 21 Oct 2037 07:28:00 GMT"})) as host:
        found, last = fetched(host, host.url)

    assert last["event"] == "error"
    assert found == []


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_build_imports_nothing(tmp_path: Path, *, is_broken: bool) -> None:
    """Neither of a good pack with deltas, nor of a broken one."""
    one = packs.blob(b"content\n" * 1_000)
    root = packs.tree(packs.Line(b"100644", b"file", one.id), packs.Line(b"100644", "näme".encode(), one.id))
    head = packs.commit(root)
    content = packs.pack([one, root, head])
    outcome = dump_line({"event": "outcome", **asdict(outcome_of(content, head))})
    request = request_line(BuildRequest(incoming=str(tmp_path), limits=Limits(), min_level=1))
    found, last = imported("coderepos.git.build", request, outcome, pack=content[:-30] if is_broken else content)
    subprocess.run(["chmod", "-R", "u+w", str(tmp_path)], check=True)

    assert last["event"] == ("error" if is_broken else "report")
    assert found == []


def test_a_search_imports_nothing() -> None:
    """A small pack that is looked through for a commit."""
    request = request_line(SearchRequest(limits=Limits(), min_level=1))
    found, last = imported("coderepos.git.commit_search", request, pack=packs.pack([packs.blob()]))

    assert last == {"event": "searched", "no_commit": True}
    assert found == []
