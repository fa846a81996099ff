"""Replacing a token: tried on a real Git server first, then swapped in one step, and never shown."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from coderepos.exceptions import RepositoryTooLarge
from coderepos.git.probe import probe
from coderepos.models import AuditEntry, CodeRepository, Job, ProjectMembership, Role
from coderepos.projects.models import Project
from coderepos.services.repositories import tokens
from tests.api.conftest import ADDRESS, TOKEN, ClientOf, MakeRepository
from tests.support.database import connection
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer

NEW = "ghp_ThisOneReplacesTheOther0123456789ab"
Put = Callable[..., Any]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server that takes the new token alone, and tells when it ends."""
    make_repository(tmp_path / "source")
    ends = (timezone.now() + timedelta(days=3)).strftime("%Y-%m-%d %H:%M:%S UTC")
    headers = {"github-authentication-token-expiration": ends}
    with GitServer(tmp_path, credentials=("git", NEW), headers=headers) as server:
        yield server


@pytest.fixture
def repository(make_repository: MakeRepository, server: GitServer, settings: Settings) -> CodeRepository:
    """A repository on that server, with the old token."""
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
    }
    url = server.url("source")
    return make_repository(git_url=url, url_key=url, platform="generic", token_accepted=False)


@pytest.fixture
def maintainer(project: Project) -> User:
    """Who may replace tokens."""
    user = User.objects.create_user("maintainer")
    ProjectMembership.objects.create(project=project, user=user, role=Role.MAINTAINER)
    return user


@pytest.fixture
def put(client_of: ClientOf, maintainer: User, repository: CodeRepository) -> Put:
    """Put a body to the address of the repository's token."""

    def call(body: object, *, user: User = maintainer, **extra: Any) -> Any:
        address = f"{ADDRESS}/repos/{repository.pk}/token"
        return client_of(user).put(address, json.dumps(body), content_type="application/json", **extra)

    return call


def stored(repository: CodeRepository) -> str:
    """Return the token as a worker opens it."""
    token: str = CodeRepository.objects.get(pk=repository.pk).token_ciphertext.reveal()
    return token


def test_token_that_the_host_takes_replaces_the_old_one(put: Put, repository: CodeRepository, maintainer: User) -> None:
    """The answer says how the token is, nothing of what it is; the details say the same."""
    response = put({"access_token": NEW})

    assert response.status_code == 200, response.content
    body = response.json()
    assert set(body) == {"repo_id", "token_status", "token_expires_at"}
    assert (body["repo_id"], body["token_status"]) == (str(repository.pk), "expiring")
    assert body["token_expires_at"].endswith("Z")
    assert NEW not in response.content.decode()
    assert stored(repository) == NEW
    client = APIClient()
    client.force_login(maintainer)
    for path in ("", "/status"):
        shown = client.get(f"{ADDRESS}/repos/{repository.pk}{path}").json()
        assert (shown["token_status"], shown["token_expires_at"]) == ("expiring", body["token_expires_at"])
    entry = AuditEntry.objects.get()
    assert (entry.event, entry.actor_name, entry.repository_id) == ("token_replaced", "maintainer", repository.pk)


def test_swap_is_one_statement(put: Put, repository: CodeRepository) -> None:
    """Token, key, user name and what the host said are written at once, under the condition of the URL."""
    with CaptureQueriesContext(connection) as queries:
        assert put({"access_token": NEW, "username": "git"}).status_code == 200

    [swap] = [query["sql"] for query in queries if query["sql"].startswith('UPDATE "code_repos"')]
    for column in ("token_ciphertext", "token_kid", "username", "token_accepted", "token_expires_at"):
        assert f'"{column}" =' in swap.partition(" WHERE ")[0]
    assert '"git_url" =' in swap.partition(" WHERE ")[2]


@pytest.mark.parametrize("token", ["ghp_AnotherThatIsWrong0123456789abcdef", ""])
def test_old_token_stays_where_the_host_refuses_the_new_one(put: Put, repository: CodeRepository, token: str) -> None:
    """A refusal is that of the remote, changes nothing, and leaves a trace."""
    before = CodeRepository.objects.values().get()
    response = put({"access_token": token})

    assert (response.status_code, response.json()["detail"]["error"]) == (422, "remote_auth_failed")
    assert stored(repository) == TOKEN
    assert CodeRepository.objects.values().get() == before
    entry = AuditEntry.objects.get()
    assert (entry.event, entry.details, entry.repository_id) == (
        "token_refused",
        {"code": "remote_auth_failed"},
        repository.pk,
    )


def test_user_name_stays_or_changes_with_the_token(put: Put, repository: CodeRepository, server: GitServer) -> None:
    """A user name that is not given stays; one that is given is tried along and stored along."""
    server.credentials = ("bot", NEW)
    assert put({"access_token": NEW}).status_code == 422
    assert put({"access_token": NEW, "username": "bot"}).status_code == 200
    assert put({"access_token": NEW}).status_code == 200
    assert CodeRepository.objects.get().username == "bot"
    server.credentials = ("git", NEW)
    assert put({"access_token": NEW, "username": ""}).status_code == 200
    assert CodeRepository.objects.get().username == ""


def test_public_repository_needs_none(put: Put, repository: CodeRepository, server: GitServer) -> None:
    """An empty token is one that the remote has to take too."""
    server.credentials = None

    assert put({"access_token": ""}).status_code == 200
    assert stored(repository) == ""


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"access_token": None},
        {"access_token": [NEW]},
        {"access_token": {"a": NEW}},
        {"access_token": 7},
        {"access_token": NEW + "\n"},
        {"access_token": NEW * 200},
        {"username": "git"},
        {"access_token": NEW, "username": NEW + ":"},
        {"access_token": NEW, "username": [NEW]},
        [NEW],
        NEW,
    ],
    ids=lambda body: str(body)[:40],
)
@pytest.mark.parametrize("accept", ["application/json", "text/html"])
@pytest.mark.parametrize("debug", [False, True])
def test_bad_bodies_are_refused_without_an_echo(
    put: Put,
    repository: CodeRepository,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    body: object,
    accept: str,
    *,
    debug: bool,
) -> None:
    """Neither the answer, nor a page for browsers, nor a log repeats what was sent; nobody is asked."""
    settings.DEBUG = debug
    with caplog.at_level(logging.DEBUG):
        response = put(body, headers={"accept": accept})

    assert response.status_code == 400
    assert NEW[:16] not in response.content.decode()
    assert NEW[:16] not in caplog.text
    assert stored(repository) == TOKEN
    assert not AuditEntry.objects.exists()


def test_roles(
    put: Put, viewer: User, developer: User, django_user_model: type[User], repository: CodeRepository
) -> None:
    """Below maintainer it is a 403, outside the project a 404; the Git host is not asked."""
    for user in (viewer, developer):
        response = put({"access_token": NEW}, user=user)
        assert (response.status_code, response.json()["detail"]["error"]) == (403, "permission_denied")
    assert put({"access_token": NEW}, user=django_user_model.objects.create_user("stranger")).status_code == 404
    assert stored(repository) == TOKEN


def test_grown_repository_does_not_keep_a_leaked_token_alive(
    put: Put, repository: CodeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A size over the limit is no refusal of the token."""

    def too_large(*_: Any, **__: Any) -> None:
        raise RepositoryTooLarge.of(2, 1)

    monkeypatch.setattr(tokens, "probe", too_large)
    response = put({"access_token": NEW})

    assert response.json()["token_status"] == "ok"
    assert stored(repository) == NEW


def test_token_is_not_stored_for_a_url_that_it_was_not_tried_on(
    put: Put, repository: CodeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who points the row elsewhere while the token is tried does not get it."""

    def meanwhile(*arguments: Any, **values: Any) -> Any:
        row = CodeRepository.objects.get(pk=repository.pk)
        row.git_url = "https://gitlab.com/owner/repo.git"
        row.save()
        return probe(*arguments, **values)

    monkeypatch.setattr(tokens, "probe", meanwhile)
    response = put({"access_token": NEW})

    assert (response.status_code, response.json()["detail"]["error"]) == (409, "invalid_state")
    assert stored(repository) == ""


def test_running_job_keeps_what_it_opened(put: Put, repository: CodeRepository) -> None:
    """A job that was claimed before goes on with the old token, and what its host says is not about the new one."""
    job = Job.objects.create(repository=repository)
    claimed = Job.objects.claim(job.pk, node="node")
    assert claimed is not None
    assert put({"access_token": NEW}).status_code == 200

    assert claimed.repository.token_ciphertext.reveal() == TOKEN
    claimed.repository.record_token_result(accepted=False)
    assert CodeRepository.objects.get().token_accepted is True


def test_no_key_no_question(put: Put, repository: CodeRepository, settings: Settings, server: GitServer) -> None:
    """Without a key that could seal it the new token goes nowhere."""
    settings.CODEREPOS = {**settings.CODEREPOS, "MASTER_ENCRYPTION_KEY": None}

    assert put({"access_token": NEW}).status_code == 503
    assert server.requests == []


@pytest.mark.parametrize("rate", ["CONNECT_RATE_PER_USER", "CONNECT_RATE_PER_PROJECT"])
def test_tries_are_counted(put: Put, settings: Settings, rate: str) -> None:
    """Trying tokens on a remote costs what a connect call costs."""
    settings.CODEREPOS = {**settings.CODEREPOS, rate: "1/hour"}

    assert put({"access_token": NEW}).status_code == 200
    response = put({"access_token": NEW})
    assert (response.status_code, response.json()["detail"]["error"]) == (429, "throttled")
    assert "Retry-After" in response


def test_page_for_browsers(put: Put, repository: CodeRepository, client_of: ClientOf, maintainer: User) -> None:
    """The address offers nothing to read, and its page has no token."""
    page = client_of(maintainer).get(f"{ADDRESS}/repos/{repository.pk}/token", headers={"accept": "text/html"})

    assert page.status_code == 405
    assert TOKEN not in page.content.decode()
