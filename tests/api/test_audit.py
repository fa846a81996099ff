"""Reading the audit trail, and what the use cases write to it."""

from __future__ import annotations

import io
import uuid
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from pytest_django import DjangoAssertNumQueries, Settings
from rest_framework.test import APIClient

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.exceptions import CodeReposError
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Job, ProjectMembership, Role
from coderepos.projects.models import Project
from tests.api.conftest import ADDRESS, TOKEN, ClientOf, MakeRepository
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer

NOON = datetime(2024, 1, 15, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def maintainer(project: Project) -> User:
    """Who may read it."""
    user = User.objects.create_user("maintainer")
    ProjectMembership.objects.create(project=project, user=user, role=Role.MAINTAINER)
    return user


def test_entry_of_the_trail(client_of: ClientOf, maintainer: User, repository: CodeRepository) -> None:
    """An entry says what, who, when and which job."""
    job_id = uuid.uuid4()
    entry = AuditEntry.objects.create(
        event="token_replaced",
        actor_id="7",
        actor_name="dora",
        repository_id=repository.pk,
        job_id=job_id,
        details={"kid": "local:1"},
        created_at=NOON,
    )
    AuditEntry.objects.record(AuditEvent.TOKEN_OPENED, repository=repository)
    AuditEntry.objects.record(AuditEvent.TOKEN_OPENED, project_id=repository.project_id)

    newest, oldest = client_of(maintainer).get(f"{ADDRESS}/repos/{repository.pk}/audit").json()["results"]

    assert (newest["event"], newest["actor"], newest["actor_id"], newest["task_id"]) == ("token_opened",) + (None,) * 3
    assert oldest == {
        "id": entry.pk,
        "event": "token_replaced",
        "actor": "dora",
        "actor_id": "7",
        "task_id": str(job_id),
        "details": {"kid": "local:1"},
        "created_at": "2024-01-15T12:00:00Z",
    }


def test_roles(
    client_of: ClientOf, maintainer: User, developer: User, viewer: User, repository: CodeRepository
) -> None:
    """Maintainers read it; others of the project get a 403, strangers a 404."""
    path = f"{ADDRESS}/repos/{repository.pk}/audit"

    assert client_of(maintainer).get(path).status_code == 200
    assert [client_of(user).get(path).status_code for user in (developer, viewer)] == [403, 403]
    assert client_of(User.objects.create_user("stranger")).get(path).status_code == 404
    assert client_of(None).get(path).status_code == 401


@pytest.mark.parametrize("rows", [1, 30])
def test_it_costs_the_same_whatever_its_length(
    maintainer: User, repository: CodeRepository, django_assert_num_queries: DjangoAssertNumQueries, rows: int
) -> None:
    """Repository, role, count and page."""
    AuditEntry.objects.bulk_create(AuditEntry(event="connected", repository_id=repository.pk) for _ in range(rows))
    api = APIClient()
    api.force_authenticate(maintainer)

    with django_assert_num_queries(4):
        page = api.get(f"{ADDRESS}/repos/{repository.pk}/audit").json()

    assert page["count"] == len(page["results"]) == rows


@pytest.fixture
def server(tmp_path: Path, settings: Settings) -> GitServer:
    """A Git server that insists on the token."""
    make_repository(tmp_path / "source")
    server = GitServer(tmp_path, credentials=("git", TOKEN))
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
    }
    return server


def connected(server: GitServer, project: Project, user: User, token: str = TOKEN) -> services.Connection:
    """Connect the server's repository."""
    return services.connect_repository(
        user=user, project_id=str(project.pk), git_url=server.url("source"), access_token=Secret(token)
    )


def events() -> list[tuple[str, str]]:
    """Return what was written, the oldest first: event and who did it."""
    return list(AuditEntry.objects.order_by("id").values_list("event", "actor_name"))


def test_life_of_a_token_is_written_down(server: GitServer, project: Project, developer: User) -> None:
    """Connecting, opening for a job, and the refusal of the host each leave an entry with the job."""
    with server:
        connection = connected(server, project, developer)
        job, repository = connection.job, connection.repository
        assert repository.token_accepted is True
        assert services.worker.run_clone(job_id=job.pk) == "succeeded"
        server.credentials = ("git", "another")
        CodeRepository.objects.update(clone_status="FAILED")
        again = services.clone_repository(user=developer, repository=repository)
        assert services.worker.run_clone(job_id=again.pk) == "failed"

    assert events() == [
        ("connected", developer.get_username()),
        ("token_opened", ""),
        ("token_opened", ""),
        ("token_refused", ""),
    ]
    entries = list(AuditEntry.objects.order_by("id"))
    assert {entry.repository_id for entry in entries} == {repository.pk}
    assert {entry.project_id for entry in entries} == {str(project.pk)}
    assert [entry.job_id for entry in entries] == [job.pk, job.pk, again.pk, again.pk]
    assert entries[1].details == {"attempt": 1, "node": "test-node", "kid": repository.token_kid}
    assert entries[3].details == {"attempt": 1, "code": "remote_auth_failed"}
    assert TOKEN not in str([entry.details for entry in entries])
    assert CodeRepository.objects.with_token_status().get().token_status == "refused"


def test_clone_refreshes_what_is_known_of_the_token(server: GitServer, project: Project, developer: User) -> None:
    """A job that gets through says that the token works, and until when."""
    with server:
        connection = connected(server, project, developer)
        CodeRepository.objects.update(token_accepted=None)
        server.headers = {"github-authentication-token-expiration": "2131-02-03 04:05:06 UTC"}
        assert services.worker.run_clone(job_id=connection.job.pk) == "succeeded"

    repository = CodeRepository.objects.with_token_status().get()
    assert (repository.token_status, repository.token_expires_at) == (
        "ok",
        datetime(2131, 2, 3, 4, 5, 6, tzinfo=UTC),
    )


def test_rejection_is_written_down(server: GitServer, project: Project, developer: User, viewer: User) -> None:
    """A call that is refused leaves its code, its figures and its project, and no repository."""
    with server:
        with pytest.raises(CodeReposError):
            connected(server, project, developer, "ghp_wrong0123456789")
        with pytest.raises(CodeReposError):
            connected(server, project, viewer)
        connection = connected(server, project, developer)
        with pytest.raises(CodeReposError):
            connected(server, project, developer)

    asked = {"git_url": server.url("source"), "ref": ""}
    rejected = AuditEntry.objects.filter(event="connect_rejected").order_by("id")
    assert [(entry.actor_name, entry.details) for entry in rejected] == [
        (developer.get_username(), {**asked, "code": "remote_auth_failed"}),
        (viewer.get_username(), {**asked, "code": "permission_denied"}),
        (developer.get_username(), {**asked, "code": "already_connected", "repo_id": str(connection.repository.pk)}),
    ]
    assert {(entry.project_id, entry.repository_id) for entry in rejected} == {(str(project.pk), None)}


def test_failure_to_open_is_written_down(make_repository: MakeRepository, settings: Settings, tmp_path: Path) -> None:
    """A token that does not open fails its job, and both show."""
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(tmp_path / "repos")}
    repository = make_repository()
    job = Job.objects.create(repository=repository)
    CodeRepository._base_manager.update(token_kid="local:" + "0" * 32)

    assert services.worker.run_clone(job_id=job.pk) == "failed"

    entry = AuditEntry.objects.get()
    assert (entry.event, entry.job_id, entry.details["code"]) == ("decrypt_failed", job.pk, "token_undecryptable")


def test_old_entries_come_last(client_of: ClientOf, maintainer: User, repository: CodeRepository) -> None:
    """The newest event is the first of the page."""
    for hours in (3, 1, 2):
        AuditEntry.objects.create(
            event="connected", repository_id=repository.pk, created_at=NOON + timedelta(hours=hours)
        )

    results = client_of(maintainer).get(f"{ADDRESS}/repos/{repository.pk}/audit").json()["results"]
    assert [entry["created_at"][11:13] for entry in results] == ["15", "14", "13"]


def test_rotation_is_written_down(repository: CodeRepository, settings: Settings) -> None:
    """A rotation leaves one entry with the counts per key before and after, a rehearsal none."""
    old_key, new_key = settings.CODEREPOS["MASTER_ENCRYPTION_KEY"], b64encode(bytes(range(7, 39))).decode()
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "MASTER_ENCRYPTION_KEY": new_key,
        "DECRYPT_ONLY_MASTER_KEYS": [old_key],
    }
    call_command("coderepos_rekey", "--dry-run", stdout=io.StringIO())
    assert not AuditEntry.objects.exists()
    call_command("coderepos_rekey", stdout=io.StringIO())

    old, new = repository.token_kid, CodeRepository.objects.get().token_kid
    assert old != new
    entry = AuditEntry.objects.get()
    assert (entry.event, entry.repository_id, entry.project_id) == ("rekeyed", None, "")
    assert entry.details == {
        "complete": True,
        "tokens": {"code_repos.token_ciphertext": {"before": {old: 1}, "after": {new: 1}}},
    }
