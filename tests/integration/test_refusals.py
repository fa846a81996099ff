"""Bad input gets a clear error by real HTTP, and leaves nothing behind."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django_q.models import OrmQ
from model_bakery import baker
from pytest_django import Settings

from coderepos.models import CodeRepository, Job, ProjectMembership
from coderepos.projects.models import Project
from tests.integration.conftest import ACCESS_TOKEN
from tests.support.api_client import Api
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer

CodeSettings = Callable[..., dict[str, Any]]
PUBLIC = "https://git.example.org/r.git"


@pytest.fixture(autouse=True)
def nothing_left(project: Project, tmp_path: Path) -> Iterator[None]:
    """Whatever was refused: neither row nor job, notification or directory."""
    yield
    assert not CodeRepository.objects.exists()
    assert not Job.objects.exists()
    assert not OrmQ.objects.exists()
    assert not (tmp_path / "repos").exists()


def refused(api: Api, project: Project, **body: Any) -> tuple[int, str, str]:
    """Connect, and return status, code and message; no answer may hold the token."""
    answer = api.post(
        "/connect", {"git_url": PUBLIC, "access_token": ACCESS_TOKEN, "project_id": str(project.pk), **body}
    )
    assert ACCESS_TOKEN not in str(answer.body)
    detail = answer.body["detail"]
    return answer.status, detail["error"], detail["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"git_url": NaN}', b"[" * 2_000, b'{"a":' * 2_000]
)
def test_body_that_is_no_object(api: Api, body: bytes) -> None:
    """Malformed JSON is invalid_request."""
    answer = api.call("POST", "/connect", body)

    assert (answer.status, answer.body["detail"]["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "values",
    [
        {"git_url": ["https://git.example.org/r.git"]},
        {"git_url": None},
        {"git_url": ""},
        {"access_token": ["ghp_inalist"]},
        {"access_token": {"a": "ghp_inadict"}},
        {"access_token": 7},
        {"access_token": "t" * 4_097},
        {"access_token": "with space"},
        {"access_token": "with\nnewline"},
        {"project_id": None},
        {"project_id": []},
        {"ref": {}},
        {"ref": "r" * 256},
        {"ref": "a\0b"},
        {"depth": 0},
        {"depth": -1},
        {"depth": "many"},
        {"depth": 2**40},
        {"username": "a\nb"},
        {"username": "a:b"},
    ],
    ids=str,
)
def test_value_of_the_wrong_kind(api: Api, project: Project, values: dict[str, Any]) -> None:
    """Wrong types and impossible values are invalid_request, before any network is asked."""
    status, code, _ = refused(api, project, **values)

    assert (status, code) == (400, "invalid_request")


@pytest.mark.parametrize("project_id", ["550e8400-e29b-41d4-a716-446655440000", "x", "../x", "0" * 300])
def test_unknown_project(api: Api, project: Project, project_id: str) -> None:
    """A project that is not there is not_found, whatever its spelling."""
    assert refused(api, project, project_id=project_id)[:2] == (404, "not_found")


def test_foreign_project_looks_like_an_unknown_one(api: Api, project: Project) -> None:
    """A project of somebody else has the same body as none."""
    foreign = baker.make(Project)
    unknown = refused(api, project, project_id="550e8400-e29b-41d4-a716-446655440000")

    assert refused(api, project, project_id=str(foreign.pk)) == unknown


def test_viewer_may_not_connect(api: Api, project: Project) -> None:
    """A role below developer is told so."""
    ProjectMembership.objects.update(role="viewer")

    assert refused(api, project)[:2] == (403, "permission_denied")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ssh://git@github.com/a/b.git",
        "git@github.com:a/b.git",
        "git://github.com/a/b.git",
        "http://github.com/a/b.git",
        "https://user:secret@github.com/a/b.git",
        "https://@github.com/a/b.git",
        "https://github.com/a/b.git\r\nX: y",
        "https://github.com/a/../b.git",
        "https://github.com:22/a/b.git",
        "https://github.com/a/b.git?x",
        "https://github.com/a/b.git#x",
        "https://127.1/r.git",
        "https://0x7f000001/r.git",
        "https://2130706433/r.git",
        "https://0177.0.0.1/r.git",
        "https://①②⑦.0.0.1/r.git",
        "https://" + "a" * 3_000,
        "/etc/passwd",
        "-oProxyCommand=x",
    ],
)
def test_url_that_is_refused_by_its_text(api: Api, project: Project, url: str) -> None:
    """Other schemes, user info and odd spellings are 422 and say what a URL looks like."""
    status, code, _ = refused(api, project, git_url=url)

    assert status == 422
    assert code in ("invalid_git_url", "url_not_allowed")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "168.63.129.16",
        "0.0.0.0",  # noqa: S104  an address to be refused, nothing is bound to it
        "[::1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fec0::1]",
        "[ff02::1]",
    ],
)
def test_private_address_looks_like_a_dead_host(api: Api, project: Project, host: str) -> None:
    """Addresses that are not public are answered as an unresolvable name is: nobody scans ports with us."""
    assert refused(api, project, git_url=f"https://{host}/r.git") == dead_host(api, project)


def test_closed_port_looks_like_a_dead_host(api: Api, project: Project, settings: Settings) -> None:
    """Nor does a port that nobody listens on tell anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings.CODEREPOS = {**settings.CODEREPOS, "PRIVATE_GIT_HOSTS": [f"127.0.0.1:{port}"]}

    assert refused(api, project, git_url=f"https://127.0.0.1:{port}/r.git") == dead_host(api, project)


def dead_host(api: Api, project: Project) -> tuple[int, str, str]:
    """Return the answer for a name that does not resolve."""
    answer = refused(api, project, git_url="https://no-such-host.invalid/r.git")
    assert answer[:2] == (502, "remote_unreachable")
    return answer


def test_refusals_of_the_remote(
    api: Api, project: Project, git_root: Path, git_server: GitServer, code_settings: CodeSettings
) -> None:
    """A refused token, what is not there, and an empty repository are all told apart."""
    make_repository(git_root / "source")
    git("init", "--quiet", git_root / "empty")
    code_settings(git_server)
    url = git_server.url("source")

    assert refused(api, project, git_url=url, access_token="wrong")[:2] == (422, "remote_auth_failed")
    assert refused(api, project, git_url=url, access_token="")[:2] == (422, "remote_auth_failed")
    assert refused(api, project, git_url=git_server.url("none"))[:2] == (422, "remote_not_found")
    assert refused(api, project, git_url=url, ref="no-such-branch")[:2] == (422, "ref_not_found")
    assert refused(api, project, git_url=url, ref="1" * 40)[:2] == (422, "ref_not_found")
    assert refused(api, project, git_url=git_server.url("empty"))[:2] == (422, "repository_empty")


def test_no_key_means_nothing_is_asked(
    api: Api, project: Project, git_root: Path, git_server: GitServer, code_settings: CodeSettings
) -> None:
    """Without a master key the answer is 503, and the token goes nowhere."""
    make_repository(git_root / "source")
    code_settings(git_server, MASTER_ENCRYPTION_KEY=None)

    assert refused(api, project, git_url=git_server.url("source"))[:2] == (503, "encryption_unavailable")
    assert git_server.requests == []
