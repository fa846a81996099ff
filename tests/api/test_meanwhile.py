"""What happens to a repository while its remote is asked, and what a refused call leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, transaction
from psycopg.errors import LockNotAvailable
from rest_framework.test import APIClient

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.exceptions import CodeReposError, DatabaseBusy, NotFound, RemoteAuthFailed, RemoteTimeout
from coderepos.git.results import ProbeReport
from coderepos.models import AuditEntry, CodeRepository, Job, ProjectMembership, Role, locking
from coderepos.models.repository_queryset import CodeRepositoryQuerySet
from coderepos.projects.models import Project
from coderepos.services.repositories import changing, connecting, tokens
from tests.api.conftest import ADDRESS, TOKEN, ClientOf, MakeRepository
from tests.support.database import ALIAS, connection

pytestmark = pytest.mark.django_db(transaction=True)

PLAIN = "a-token-without-a-known-form"


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A remote that takes everything; ``meanwhile`` is called while it is asked."""
    remote = SimpleNamespace(meanwhile=lambda: None)

    def probe(*_: object, **__: object) -> ProbeReport:
        remote.meanwhile()
        return ProbeReport(
            pack_bytes=1_000,
            estimated_bytes=3_500,
            size_source="probe",
            stopped_early=False,
            ref_name="refs/heads/main",
            head_branch="main",
            wanted_id="0" * 40,
            token_expires_at=None,
        )

    for module in (changing, connecting, tokens):
        monkeypatch.setattr(module, "probe", probe)
    return remote


@pytest.fixture
def maintainer(project: Project) -> User:
    """Who may do everything in the project."""
    user = User.objects.create_user("maintainer-of-it")
    ProjectMembership.objects.create(project=project, user=user, role=Role.MAINTAINER)
    return user


@pytest.fixture
def client(client_of: ClientOf, maintainer: User) -> APIClient:
    """A client of the API that is logged in as the maintainer."""
    return client_of(maintainer)


def patch(client: APIClient, repository: CodeRepository, **values: Any) -> Any:
    """Change a repository."""
    return client.patch(f"{ADDRESS}/repos/{repository.pk}", values, format="json")


def put(client: APIClient, repository: CodeRepository, **values: Any) -> Any:
    """Replace the token of a repository."""
    return client.put(f"{ADDRESS}/repos/{repository.pk}/token", {"access_token": TOKEN, **values}, format="json")


def raises(error: CodeReposError) -> Callable[[], None]:
    """Return what raises an error in the place of an answer."""

    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("values", [{"depth": 5}, {"ref": "other"}, {"username": "other"}])
@pytest.mark.parametrize("theirs", [{"ref": "theirs"}, {"depth": 7}, {"username": "theirs"}])
def test_no_change_undoes_another_one(
    remote: SimpleNamespace, client: APIClient, make_repository: MakeRepository, values: Any, theirs: Any
) -> None:
    """What is left out stays as it is, also where that was changed while the remote was asked."""
    repository = make_repository(clone_status="COMPLETED")
    remote.meanwhile = lambda: CodeRepository.objects.filter(pk=repository.pk).update(**theirs)

    answer = patch(client, repository, **values)

    assert (answer.status_code, answer.json()["detail"]["error"]) == (409, "invalid_state")
    assert CodeRepository.objects.filter(pk=repository.pk, **theirs).exists()
    assert not Job.objects.exists()


def test_no_token_undoes_a_change_of_its_user_name(
    remote: SimpleNamespace, client: APIClient, make_repository: MakeRepository
) -> None:
    """The new token was tried with another user name than the row has now."""
    repository = make_repository(clone_status="COMPLETED", username="before")
    remote.meanwhile = lambda: CodeRepository.objects.filter(pk=repository.pk).update(username="after")

    answer = put(client, repository)

    assert (answer.status_code, answer.json()["detail"]["error"]) == (409, "invalid_state")
    assert CodeRepository.objects.get(pk=repository.pk).username == "after"
    assert AuditEntry.objects.get(event="connect_rejected").details["code"] == "invalid_state"


@pytest.mark.parametrize("call", [lambda *to: patch(*to, depth=5), put])
def test_repository_that_goes_meanwhile(
    remote: SimpleNamespace, client: APIClient, make_repository: MakeRepository, call: Callable[..., Any]
) -> None:
    """It is not there any more, which no second try would mend."""
    repository = make_repository(clone_status="COMPLETED")
    remote.meanwhile = lambda: CodeRepository.objects.filter(pk=repository.pk).delete()

    assert call(client, repository).status_code == 404


def test_project_that_goes_meanwhile(
    remote: SimpleNamespace, client: APIClient, project: Project, body: dict[str, Any]
) -> None:
    """Nothing is connected to it, and the trail says so."""
    remote.meanwhile = lambda: Project.objects.all().delete()

    answer = client.post(f"{ADDRESS}/connect", body, format="json")

    assert answer.status_code == 404
    assert AuditEntry.objects.get(event="connect_rejected").details["code"] == "not_found"


def test_repository_that_is_gone_is_not_cloned(developer: User, make_repository: MakeRepository) -> None:
    """A service says so by an error of ours, which the admin's action shows as well."""
    repository = make_repository(clone_status="FAILED")
    CodeRepository.objects.filter(pk=repository.pk).delete()

    with pytest.raises(NotFound):
        services.clone_repository(user=developer, repository=repository)


def test_failure_leaves_the_callers_instance_as_it_was(
    remote: SimpleNamespace, maintainer: User, make_repository: MakeRepository
) -> None:
    """The next call with it must not bring along what the first one was refused."""
    repository = make_repository(clone_status="COMPLETED", ref="main")
    remote.meanwhile = raises(RemoteTimeout())
    for call in (
        lambda: services.change_repository(user=maintainer, repository=repository, ref="missing", username="me"),
        lambda: services.replace_token(user=maintainer, repository=repository, access_token=TOKEN, username="me"),
    ):
        with pytest.raises(RemoteTimeout):
            call()
    remote.meanwhile = lambda: None

    services.change_repository(user=maintainer, repository=repository, depth=5)

    stored = CodeRepository.objects.get(pk=repository.pk)
    assert (repository.ref, stored.ref, stored.username, stored.depth) == ("main", "main", "", 5)


@pytest.mark.parametrize(("values", "accepted"), [({"username": "other"}, True), ({"depth": 5}, False)])
def test_refused_user_name_says_nothing_of_the_stored_token(
    remote: SimpleNamespace, client: APIClient, make_repository: MakeRepository, values: Any, accepted: bool
) -> None:
    """It was tried with another user name than its own; with its own the refusal counts."""
    repository = make_repository(clone_status="COMPLETED", token_accepted=True)
    remote.meanwhile = raises(RemoteAuthFailed())

    assert patch(client, repository, **values).status_code == 422
    assert CodeRepository.objects.get(pk=repository.pk).token_accepted is accepted


@pytest.mark.parametrize(
    ("error", "event"), [(RemoteAuthFailed(), "token_refused"), (RemoteTimeout(), "connect_rejected")]
)
def test_only_a_refusal_of_the_host_is_called_one(
    remote: SimpleNamespace, client: APIClient, make_repository: MakeRepository, error: CodeReposError, event: str
) -> None:
    """A host that did not answer has refused no token."""
    remote.meanwhile = raises(error)

    put(client, make_repository(clone_status="COMPLETED"))

    assert AuditEntry.objects.get().event == event


@pytest.mark.parametrize("call", [lambda *to: patch(*to, username=PLAIN), lambda *to: put(*to, access_token=PLAIN)])
def test_user_name_that_is_the_token_of_the_row(
    remote: SimpleNamespace, client: APIClient, make_repository: MakeRepository, call: Callable[..., Any]
) -> None:
    """Only the service knows both, and its refusal is an answer as any other."""
    repository = make_repository(clone_status="COMPLETED", token_ciphertext=Secret(PLAIN), username="")
    CodeRepository.objects.filter(pk=repository.pk).update(username=PLAIN)

    answer = call(client, repository)

    assert answer.status_code == 400
    assert list(answer.json()["detail"]["fields"]) == ["username"]
    assert PLAIN not in answer.content.decode()


@pytest.mark.parametrize(("method", "path"), [("post", "/clone"), ("get", "/audit"), ("patch", ""), ("put", "/token")])
def test_denied_calls_are_in_the_trail_with_atomic_requests(
    monkeypatch: pytest.MonkeyPatch,
    client_of: ClientOf,
    viewer: User,
    make_repository: MakeRepository,
    method: str,
    path: str,
) -> None:
    """The transaction of a refused request is undone, and its entry must not go with it."""
    repository = make_repository(clone_status="COMPLETED")
    viewers = client_of(viewer)
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", value=True)

    body = {"patch": {"depth": 1}, "put": {"access_token": TOKEN}}.get(method)
    answer = getattr(viewers, method)(f"{ADDRESS}/repos/{repository.pk}{path}", body, format="json" if body else None)

    assert answer.status_code == 403
    assert AuditEntry.objects.get().event == "denied"


@pytest.fixture
def stored(make_repository: MakeRepository) -> CodeRepository:
    """A repository that may be cloned again."""
    return make_repository(clone_status="FAILED")


@pytest.fixture
def frozen_connect(
    project: Project, client: APIClient, stored: CodeRepository, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Another connect call that stands still between its insert and its commit, and the URL that it connects."""
    monkeypatch.setattr(locking, "WAIT_SECONDS", 1)
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout = 200")
    url = "https://github.com/owner/frozen"
    inserted, release = threading.Event(), threading.Event()

    def insert() -> None:
        try:
            with transaction.atomic(using=ALIAS):
                CodeRepository.objects.create(project_id=project.pk, git_url=url, token_ciphertext=Secret(""))
                inserted.set()
                release.wait(30)
                transaction.set_rollback(True, using=ALIAS)
        finally:
            connection.close()

    thread = threading.Thread(target=insert)
    thread.start()
    assert inserted.wait(10)
    yield url
    release.set()
    thread.join()
    connection.close()


@pytest.mark.usefixtures("remote")
def test_connect_beside_a_frozen_one(
    client: APIClient, project: Project, frozen_connect: str, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL waits for the other's insert, SQLite for its lock: both end, and the operator is told of what."""
    answer = client.post(
        f"{ADDRESS}/connect", {"git_url": frozen_connect, "project_id": str(project.pk)}, format="json"
    )

    assert (answer.status_code, answer.json()["detail"]["error"]) == (503, "database_busy")
    assert int(answer["Retry-After"]) > 0
    assert "The database was busy in ConnectViewSet: " in caplog.text
    assert "lock" in caplog.text


@pytest.mark.usefixtures("remote")
@pytest.mark.parametrize(
    "call",
    [lambda client, row: client.post(f"{ADDRESS}/repos/{row.pk}/clone"), lambda *to: patch(*to, depth=5), put],
    ids=["clone", "change", "token"],
)
def test_writer_that_is_in_the_way(
    client: APIClient, stored: CodeRepository, frozen_connect: str, call: Callable[..., Any]
) -> None:
    """On SQLite any writer is in the way of every other one, on PostgreSQL one of the same row alone."""
    answer = call(client, stored)

    if connection.vendor == "postgresql":
        assert answer.status_code < 300
    else:
        assert (answer.status_code, answer.json()["detail"]["error"]) == (503, "database_busy")
        assert int(answer["Retry-After"]) > 0


@pytest.mark.usefixtures("remote")
@pytest.mark.parametrize("name", ["connect", "clone", "change", "token", "cancel", "clean", "disconnect"])
def test_writer_that_is_in_the_way_of_code_of_the_host(
    developer: User, stored: CodeRepository, request: pytest.FixtureRequest, name: str
) -> None:
    """It gets the documented error, not one of a database driver."""
    if connection.vendor != "sqlite":
        pytest.skip("a writer of another row is in nobody's way")
    ProjectMembership.objects.filter(user=developer).update(role=Role.MAINTAINER)
    request.getfixturevalue("frozen_connect")
    about: dict[str, Any] = {"user": developer, "repository": stored}
    calls: dict[str, Callable[[], object]] = {
        "connect": lambda: services.connect_repository(
            user=developer, project_id=stored.project_id, git_url="https://github.com/owner/another"
        ),
        "clone": lambda: services.clone_repository(**about),
        "change": lambda: services.change_repository(**about, depth=5),
        "token": lambda: services.replace_token(**about, access_token=TOKEN),
        "cancel": lambda: services.cancel_repository(**about),
        "clean": lambda: services.clean_repository(**about),
        "disconnect": lambda: services.disconnect_repository(**about),
    }

    with pytest.raises(DatabaseBusy):
        calls[name]()


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda client, row: client.post(f"{ADDRESS}/repos/{row.pk}/clone"), "job_running"),
        (lambda *to: patch(*to, depth=5), "job_running"),
        (put, "invalid_state"),
    ],
)
def test_row_that_somebody_holds(
    remote: SimpleNamespace,
    client: APIClient,
    make_repository: MakeRepository,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., Any],
    code: str,
) -> None:
    """A worker is at it, or was frozen in the middle: that is a conflict, and no fault of ours."""
    repository = make_repository(clone_status="FAILED")
    held = OperationalError("canceling statement due to lock timeout")
    held.__cause__ = LockNotAvailable()

    def update(*_: object, **__: object) -> int:
        raise held

    monkeypatch.setattr(CodeRepositoryQuerySet, "update", update)

    answer = call(client, repository)

    assert (answer.status_code, answer.json()["detail"]["error"]) == (409, code)
