"""What callers of the services may give, and what of it is kept and shown."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ValidationError
from django.db import transaction
from pytest_django import Settings
from rest_framework.test import APIClient

import coderepos
from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.exceptions import CodeReposError, PermissionDenied
from coderepos.models import AuditEntry, CodeRepository, Job, JobState, ProjectMembership, Role
from coderepos.projects.models import Project
from coderepos.services.repositories.status import Status
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer

OURS = Path(coderepos.__file__).parent

TOKEN = "ghp_GivenAsTextOrAsSecret0123456789abcd"
ADDRESS = "/api/v1/code"


@pytest.fixture
def server(tmp_path: Path, settings: Settings) -> GitServer:
    """A Git server that takes the token, and anybody else as well."""
    make_repository(tmp_path / "app.git")
    server = GitServer(tmp_path)
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
    }
    return server


@pytest.fixture
def project(transactional_db: None) -> Project:
    """A project."""
    return Project.objects.create(name="Rocket")


def member(project: Project, role: Role, **values: Any) -> User:
    """Somebody of the project."""
    user = User.objects.create_user(values.pop("username", f"{role}-of-it"), **values)
    ProjectMembership.objects.create(project=project, user=user, role=role)
    return user


def connected(server: GitServer, project: Project, **values: Any) -> services.Connection:
    """Connect the server's repository."""
    user = values.pop("user", None) or member(project, Role.MAINTAINER)
    arguments = {"git_url": server.url("app.git"), "access_token": TOKEN, **values}
    return services.connect_repository(user=user, project_id=str(project.pk), **arguments)


@pytest.mark.parametrize(
    ("token", "opened"), [(TOKEN, TOKEN), (Secret(TOKEN), TOKEN), ("", ""), (None, ""), (Secret(""), "")]
)
def test_a_token_may_be_text(server: GitServer, project: Project, token: Any, opened: str) -> None:
    """A caller in Python need not know the type that hides it."""
    with server:
        repository = connected(server, project, access_token=token).repository

    assert CodeRepository.objects.get(pk=repository.pk).token_ciphertext.reveal() == opened


def test_a_text_that_is_no_token_is_refused(server: GitServer, project: Project) -> None:
    """Before anything is asked, and without showing it."""
    with server, pytest.raises(ValidationError) as caught:
        connected(server, project, access_token="with a blank")

    assert "with a blank" not in str(caught.value)
    assert server.requests == []


def test_bytes_are_no_token(server: GitServer, project: Project) -> None:
    """They would be stored as Python prints them, and refused by the host."""
    user = member(project, Role.MAINTAINER)
    with server:
        repository = connected(server, project, user=user).repository
        asked = len(server.requests)
        with pytest.raises(TypeError):
            connected(server, project, user=user, access_token=TOKEN.encode(), ref="main")
        with pytest.raises(TypeError):
            services.replace_token(user=user, repository=repository, access_token=TOKEN.encode())  # type: ignore[arg-type]
        assert len(server.requests) == asked


def test_a_project_may_be_given_itself(server: GitServer, project: Project) -> None:
    """Or its key, as it is or as text."""
    user = member(project, Role.MAINTAINER)
    with server:
        for given, ref in ((project, ""), (project.pk, "main"), (str(project.pk), "HEAD")):
            made = services.connect_repository(user=user, project_id=given, git_url=server.url("app.git"), ref=ref)
            assert made.repository.project_id == project.pk


@pytest.mark.parametrize(
    "values",
    [
        {"ref": "line\nbreak"},
        {"ref": "r" * 256},
        {"username": "a:b"},
        {"username": "line\nbreak"},
        {"username": "u" * 2_049},
        {"depth": 0},
        {"depth": -1},
        {"depth": 2**31},
        {"depth": "5"},
        {"depth": True},
    ],
)
def test_callers_in_python_give_what_the_api_takes(server: GitServer, project: Project, values: Any) -> None:
    """Nothing else is asked for or stored, and the error names the value."""
    user = member(project, Role.MAINTAINER)
    with server:
        repository = connected(server, project, user=user).repository
        CodeRepository.objects.update(clone_status="FAILED")
        asked = len(server.requests)
        with pytest.raises(ValidationError) as connecting:
            connected(server, project, user=user, **{"ref": "main", **values})
        with pytest.raises(ValidationError) as changing:
            services.change_repository(user=user, repository=repository, **values)
        assert len(server.requests) == asked
    assert [*connecting.value.message_dict] == [*changing.value.message_dict] == [*values]


@pytest.mark.parametrize("nobody", [AnonymousUser(), None])
def test_nobody_gets_as_far_as_the_policy(server: GitServer, project: Project, settings: Settings, nobody: Any) -> None:
    """Not from Python either, and what was tried is written down."""
    with server:
        repository = connected(server, project).repository
    settings.CODEREPOS = {**settings.CODEREPOS, "ACCESS_POLICY": f"{__name__}.Everybody"}

    with pytest.raises(PermissionDenied):
        services.clone_repository(user=nobody, repository=repository)

    entry = AuditEntry.objects.get(event="denied")
    assert (entry.actor_id, entry.actor_name) == ("", "")


class Everybody:
    """A policy that allows everything to everybody."""

    def visible_projects(self, user: Any) -> Any:
        return Project.objects.all()

    def allows(self, *_: Any) -> bool:
        return True


def test_a_text_is_hidden_before_anything_can_fail(server: GitServer, project: Project) -> None:
    """Frames of ours in a traceback show no token that a caller gave as text."""
    user = member(project, Role.MAINTAINER)
    with server:
        repository = connected(server, project, user=user).repository
    for call in (
        lambda: services.connect_repository(user=user, project_id=project, git_url="x", access_token="with a blank"),
        lambda: services.replace_token(user=user, repository=repository, access_token="with a blank"),
    ):
        with pytest.raises(ValidationError) as caught:
            call()
        ours = [entry for entry in caught.traceback if Path(entry.path).is_relative_to(OURS)]
        assert ours
        assert not any("with a blank" in repr(value) for entry in ours for value in entry.frame.f_locals.values())


def test_a_replaced_token_may_be_text(server: GitServer, project: Project) -> None:
    """As a connected one."""
    user = member(project, Role.MAINTAINER)
    with server:
        repository = connected(server, project, user=user).repository
        services.replace_token(user=user, repository=repository, access_token="another-token")

    assert CodeRepository.objects.get(pk=repository.pk).token_ciphertext.reveal() == "another-token"


def test_the_network_is_not_asked_inside_a_transaction(server: GitServer, project: Project) -> None:
    """The sentence says what to do, and doing it works; nothing was asked, and nothing is lost with a rollback."""
    user = member(project, Role.MAINTAINER)
    with server:
        with transaction.atomic(), pytest.raises(RuntimeError, match=r"outside of atomic.*on_commit"):
            connected(server, project, user=user)
        assert server.requests == []
        made: list[services.Connection] = []
        with transaction.atomic():
            transaction.on_commit(lambda: made.append(connected(server, project, user=user)))
        (connection,) = made
        with transaction.atomic(), pytest.raises(RuntimeError, match=r"replace_token\(\)"):
            services.replace_token(user=user, repository=connection.repository, access_token=TOKEN)


def test_a_refusal_outside_of_a_transaction_is_written_down(server: GitServer, project: Project) -> None:
    """With the URL and the ref that were asked for."""
    with server, pytest.raises(CodeReposError):
        connected(server, project, git_url=server.url("missing.git"), ref="main")

    entry = AuditEntry.objects.get(event="connect_rejected")
    assert entry.details == {"git_url": server.url("missing.git"), "ref": "main", "code": "remote_not_found"}


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (f"https://user:{TOKEN}@github.com/a/b", "https://***@github.com/a/b"),
        (f"https://{TOKEN}@github.com/a/b", "https://***@github.com/a/b"),
        (f"user:{TOKEN}@github.com/a/b", "***@github.com/a/b"),
        (f"https:/user:{TOKEN}@github.com/a/b", "https:/***@github.com/a/b"),
        (f"https://user:pass@word@github.com/a/b?private_token={TOKEN}", "https://***@github.com/a/b"),
        ("https://user:secret@github.com/a/b", "https://***@github.com/a/b"),
        ("https://github.com/a/b?token=secret#secret", "https://github.com/a/b"),
        ("https://github.com/a\n\x1b[31mb", "https://github.com/a[31mb"),
        ("https://github.com/" + "a" * 3_000, "https://github.com/" + "a" * 281),
        ("", ""),
    ],
)
def test_no_secret_of_a_refused_url_is_kept(server: GitServer, project: Project, typed: str, kept: str) -> None:
    """What was typed is kept without credentials, query and control characters, and cut short."""
    with server, pytest.raises(CodeReposError):
        connected(server, project, git_url=typed, access_token="")

    assert AuditEntry.objects.get(event="connect_rejected").details["git_url"] == kept


@pytest.mark.parametrize("call", ["clone", "token", "audit"])
def test_what_a_role_does_not_allow_is_written_down(server: GitServer, project: Project, call: str) -> None:
    """Who tried what, with which repository; the caller's answer is the same as ever."""
    viewer = member(project, Role.VIEWER)
    with server:
        repository = connected(server, project).repository
    api = APIClient()
    api.force_authenticate(viewer)
    address = f"{ADDRESS}/repos/{repository.pk}/{call}"

    answer = {
        "clone": lambda: api.post(address),
        "token": lambda: api.put(address, {"access_token": TOKEN}, format="json"),
        "audit": lambda: api.get(address),
    }[call]()

    assert answer.status_code == 403
    entry = AuditEntry.objects.get(event="denied")
    action = {"clone": "clone", "token": "replace_token", "audit": "audit"}[call]
    assert (entry.actor_name, entry.repository_id) == (viewer.get_username(), repository.pk)
    assert entry.details == {"action": action, "code": "permission_denied"}


def test_a_denied_call_of_a_service_is_written_down(server: GitServer, project: Project) -> None:
    """Not the API alone."""
    with server:
        repository = connected(server, project).repository
    viewer = member(project, Role.VIEWER)

    with pytest.raises(PermissionDenied):
        services.clone_repository(user=viewer, repository=repository)

    assert AuditEntry.objects.filter(event="denied", actor_name=viewer.get_username()).count() == 1


@pytest.mark.parametrize(
    ("received", "estimated", "percent"),
    [(0, "20.00", 0), (5_000_000, "20.00", 25), (40_000_000, "20.00", 100), (5_000_000, None, None)],
)
def test_the_share_that_was_received_is_that_of_the_estimate(received: int, estimated: Any, percent: int) -> None:
    """Not of the limit, and never more than all."""
    status = Status(
        repository=CodeRepository(estimated_size_mb=estimated and Decimal(estimated)),
        job=Job(state=JobState.RUNNING, progress={"phase": "receiving", "received_bytes": received}),
    )

    assert status.percent == percent


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"username": "dora"}, "dora"),
        ({"username": "dora@example.org"}, None),
        ({"username": "dora@example.org", "first_name": "Dora", "last_name": "Maar"}, "Dora Maar"),
        ({"username": "dora@example.org", "first_name": "dora@example.org"}, None),
    ],
)
def test_no_address_of_a_person_is_shown(server: GitServer, project: Project, values: Any, shown: str | None) -> None:
    """Many hosts use e-mail addresses as user names; other members need not see them."""
    with server:
        repository = connected(server, project, user=member(project, Role.DEVELOPER, **values)).repository
    api = APIClient()
    api.force_authenticate(member(project, Role.VIEWER))

    details = api.get(f"{ADDRESS}/repos/{repository.pk}")

    assert details.json()["connected_by"] == shown
    assert "dora@example.org" not in details.content.decode()


def test_a_repository_without_a_token_says_so(server: GitServer, project: Project) -> None:
    """There is nothing to open, to expire or to refuse, in its status, its details and its audit trail."""
    user = member(project, Role.MAINTAINER)
    api = APIClient()
    api.force_authenticate(user)
    with server:
        connection = connected(server, project, user=user, access_token="")
        assert services.worker.run_clone(job_id=connection.job.pk) == "succeeded"
        address = f"{ADDRESS}/repos/{connection.repository.pk}"
        for place in (address, f"{address}/status"):
            assert api.get(place).json()["token_status"] == "none"
        assert not AuditEntry.objects.filter(event="token_opened").exists()

        assert api.put(f"{address}/token", {"access_token": TOKEN}, format="json").json()["token_status"] == "ok"
        assert api.put(f"{address}/token", {"access_token": ""}, format="json").json()["token_status"] == "none"


@pytest.mark.parametrize("how", ["save", "named field", "bulk_create", "bulk_update"])
def test_a_token_given_in_python_counts(project: Project, how: str) -> None:
    """Whichever way it gets into the row."""
    row = CodeRepository(project=project, git_url="https://github.com/a/b", token_ciphertext="")
    if how == "bulk_create":
        CodeRepository.objects.bulk_create([row])
        assert CodeRepository.objects.with_token_status().get().token_status == "none"
        return
    row.save()
    assert CodeRepository.objects.with_token_status().get().token_status == "none"
    row.token_ciphertext = TOKEN
    if how == "bulk_update":
        CodeRepository.objects.bulk_update([row], ["token_ciphertext", "token_kid"])
    else:
        row.save(update_fields=["token_ciphertext"] if how == "named field" else None)
    assert CodeRepository.objects.with_token_status().get().token_status == "unknown"


@pytest.mark.parametrize(
    ("username", "token"),
    [
        (TOKEN, ""),
        (TOKEN, "x-oauth-basic"),
        ("glpat-abcdefghij0123456789", ""),
        ("github_pat_11ABCDEFG0123456789_abcdef", "x"),
        ("0123456789abcdef0123456789abcdef01234567", ""),
        ("my-own-token-0123", "my-own-token-0123"),
    ],
)
def test_a_token_is_no_user_name(server: GitServer, project: Project, username: str, token: str) -> None:
    """It would be stored and shown readable; nothing is asked, and no answer repeats it."""
    user = member(project, Role.MAINTAINER)
    api = APIClient()
    api.force_authenticate(user)
    body = {
        "project_id": str(project.pk),
        "git_url": server.url("app.git"),
        "access_token": token,
        "username": username,
    }
    with server:
        answer = api.post(f"{ADDRESS}/connect", body, format="json")
        with pytest.raises(ValidationError) as caught:
            connected(server, project, user=user, access_token=token, username=username)

    assert (answer.status_code, set(answer.json()["detail"]["fields"])) == (400, {"username"})
    assert username not in answer.content.decode()
    assert username not in str(caught.value)
    assert server.requests == []
    assert not CodeRepository.objects.exists()


def test_a_user_name_without_a_token_is_not_kept(server: GitServer, project: Project) -> None:
    """It is used with one alone, and may be a token of a form that nobody knows."""
    with server:
        repository = connected(server, project, access_token="", username="s3cret-of-an-odd-form").repository

    assert CodeRepository.objects.get(pk=repository.pk).username == ""


def test_a_token_that_was_stored_as_a_user_name_is_masked(project: Project) -> None:
    """In a row that was made by hand, for example."""
    row = CodeRepository.objects.create(
        project=project, git_url="https://github.com/a/b", username=TOKEN, token_ciphertext=""
    )
    api = APIClient()
    api.force_authenticate(member(project, Role.VIEWER))

    assert TOKEN not in api.get(f"{ADDRESS}/repos/{row.pk}").content.decode()
