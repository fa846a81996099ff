"""What an attempt came to is what the rows say, whatever fails around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.db.models.functions import Now
from django_q.exceptions import TimeoutException
from model_bakery import baker
from pytest_django import Settings

from coderepos import engine, queues, services, signals
from coderepos.crypto.secret import Secret
from coderepos.exceptions import CloneTimeout, CodeReposError, RemoteTimeout, RemoteTooSlow, SandboxRefused
from coderepos.models import AuditEntry, CloneStatus, CodeRepository, Job, JobState, get_project_model
from coderepos.sandbox.sandbox import Sandbox
from coderepos.services import cloning, leases, retries
from coderepos.services.disk import publication
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server of one repository that wants credentials."""
    make_repository(tmp_path / "served/repository")
    with GitServer(tmp_path / "served", credentials=("git", "t" * 30)) as started:
        yield started


@pytest.fixture
def job(server: GitServer, settings: Settings, tmp_path: Path) -> Job:
    """A queued clone of it."""
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
    }
    repository = baker.make(
        CodeRepository,
        project=baker.make(get_project_model()),
        git_url=server.url("repository"),
        token_ciphertext=Secret("t" * 30),
    )
    return Job.objects.create(repository=repository, max_attempts=2)


def refuse(*_: Any, **__: Any) -> Any:
    """Fail as a disk does that went read-only."""
    raise SandboxRefused


@pytest.mark.parametrize("broken", ["discard_incoming", "discard"])
def test_failing_clean_up_hides_no_error(
    job: Job, server: GitServer, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A refused token stays a refused token, which is not tried again."""
    server.credentials = ("git", "another token")
    monkeypatch.setattr(Sandbox, broken, refuse)
    monkeypatch.setattr(AuditEntry.objects, "record", failing_once_for("token_refused"))

    assert services.worker.run_clone(job_id=job.pk) == "failed"

    job.refresh_from_db()
    assert (job.state, job.error_code) == (JobState.FAILED, "remote_auth_failed")
    assert job.repository.clone_status == CloneStatus.FAILED
    assert job.repository.token_accepted is False


@pytest.mark.parametrize("broken", ["discard_incoming", "discard", "current", "receiver"])
def test_failing_clean_up_takes_no_success_away(job: Job, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """What is published stays published, and the attempt says so."""

    def receive(**_: Any) -> None:
        raise RuntimeError("a receiver of the host")

    if broken == "receiver":
        signals.repository_cloned.connect(receive)
    else:
        monkeypatch.setattr(Sandbox, broken, refuse)
    try:
        assert services.worker.run_clone(job_id=job.pk) == "succeeded"
    finally:
        signals.repository_cloned.disconnect(receive)

    job.refresh_from_db()
    assert (job.state, job.repository.clone_status) == (JobState.SUCCEEDED, CloneStatus.COMPLETED)
    assert list(engine.sandbox_of(job.repository).repository_path.iterdir())


def test_broken_schedule_leaves_the_next_attempt_to_the_upkeep(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that is down does not turn a scheduled retry into a failed task."""
    monkeypatch.setattr(cloning, "clone", refuse)

    def down(*_: Any) -> None:
        raise ConnectionError("the broker is down")

    monkeypatch.setattr(queues, "enqueue_at", down)

    assert services.worker.run_clone(job_id=job.pk) == "retry_scheduled"


@pytest.mark.parametrize("error", [CloneTimeout, RemoteTooSlow])
def test_attempt_that_took_too_long_is_repeated_once(
    job: Job, monkeypatch: pytest.MonkeyPatch, error: type[CodeReposError]
) -> None:
    """Whatever fails between, the second one ends the job: each holds a worker for minutes."""
    Job.objects.filter(pk=job.pk).update(max_attempts=10)
    outcomes = []

    for kind in (RemoteTimeout, error, RemoteTimeout, CloneTimeout):

        def fail(*_: Any, kind: type[CodeReposError] = kind, **__: Any) -> None:
            raise kind

        monkeypatch.setattr(cloning, "clone", fail)
        Job.objects.filter(pk=job.pk).update(next_attempt_at=Now())
        outcomes.append(services.worker.run_clone(job_id=job.pk))

    assert outcomes == ["retry_scheduled"] * 3 + ["failed"]
    assert Job.objects.get(pk=job.pk).error_code == "clone_timeout"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupted_worker_gives_its_job_back(
    job: Job, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Nothing is left of the attempt, the clone is not blamed, and the next worker need not wait for a lease."""
    told: list[str] = []

    def interrupt(*_: Any, incoming: Path, **__: Any) -> None:
        (incoming / "half").touch()
        raise error

    def listen(*, error_code: str, **_: Any) -> None:
        told.append(error_code)

    signals.repository_failed.connect(listen)
    with monkeypatch.context() as patched:
        patched.setattr(cloning, "clone", interrupt)
        with pytest.raises(error):
            services.worker.run_clone(job_id=job.pk)
    job.refresh_from_db()
    assert (job.state, job.attempt, job.error_code, job.repository.error_code) == ("QUEUED", 1, "", "worker_lost")
    assert job.enqueued_at is not None
    assert engine.sandbox_of(job.repository).tokens() == set()

    with monkeypatch.context() as patched:
        patched.setattr(cloning, "clone", interrupt)
        with pytest.raises(error):
            services.worker.run_clone(job_id=job.pk)
    job.refresh_from_db()
    assert (job.state, job.error_code, told) == ("FAILED", "worker_lost", ["worker_lost"])


def test_time_out_of_the_queue_is_one_of_the_clone(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again later, and the queue learns that its task ended."""

    def ring(*_: Any, **__: Any) -> None:
        raise TimeoutException

    monkeypatch.setattr(cloning, "clone", ring)
    with pytest.raises(TimeoutException):
        services.worker.run_clone(job_id=job.pk)

    job.refresh_from_db()
    assert (job.state, job.error_code, job.slow_attempts) == (JobState.QUEUED, "clone_timeout", 1)


def test_failing_trail_hides_no_refusal_of_a_connect_call(
    job: Job, monkeypatch: pytest.MonkeyPatch, django_user_model: Any
) -> None:
    """The caller learns why, also where the audit trail can't be written."""
    monkeypatch.setattr(AuditEntry.objects, "record", failing_once_for("connect_rejected"))

    with pytest.raises(CodeReposError) as caught:
        services.connect_repository(
            user=django_user_model.objects.create_superuser("root"),
            project_id=str(job.repository.project_id),
            git_url="https://nothing.invalid/user:x@y",
            access_token=Secret("t" * 30),
        )

    assert caught.value.code in {"invalid_git_url", "remote_unreachable"}


STEPS = ("claim", "renew", "succeed")


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_database_error_is_retried(job: Job, monkeypatch: pytest.MonkeyPatch, step: str, *, committed: bool) -> None:
    """Whether the last statement was carried out or not, the job is published, once, by one attempt."""
    break_once(monkeypatch, step, committed=committed)
    told: list[Any] = []

    def listen(**sent: Any) -> None:
        told.append(sent["job_id"])

    signals.repository_cloned.connect(listen)
    try:
        assert services.worker.run_clone(job_id=job.pk) == "succeeded"
    finally:
        signals.repository_cloned.disconnect(listen)

    job.refresh_from_db()
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
    assert told == [job.pk]
    assert engine.sandbox_of(job.repository).current() == job.repository.version


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("step", ["fail", "schedule_retry"])
def test_database_error_while_a_failure_is_written_is_retried(
    job: Job, server: GitServer, monkeypatch: pytest.MonkeyPatch, step: str, *, committed: bool
) -> None:
    """The failure is in the row; after a lost answer it is not written over."""
    if step == "fail":
        server.credentials = ("git", "another token")
    else:
        monkeypatch.setattr(cloning, "clone", refuse)
    break_once(monkeypatch, step, committed=committed)

    services.worker.run_clone(job_id=job.pk)

    job.refresh_from_db()
    assert job.state == (JobState.FAILED if step == "fail" else JobState.QUEUED)
    assert job.error_code == ("remote_auth_failed" if step == "fail" else "sandbox_refused")
    assert job.attempt == 1


def test_children_end_when_the_lease_is_no_longer_safe(
    job: Job, server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that stays away ends the attempt before another worker could have the job."""
    server.bytes_per_second = 100
    monkeypatch.setattr(leases, "SAFE_SECONDS", 3)

    def down(*_: Any, **__: Any) -> None:
        raise OperationalError("the database is gone")

    monkeypatch.setattr(Job, "renew", failing_after(Job.renew, down, good_calls=1))

    assert services.worker.run_clone(job_id=job.pk) == "lost"

    job.refresh_from_db()
    assert job.state == JobState.RUNNING
    assert engine.sandbox_of(job.repository).tokens() == set()


def break_once(monkeypatch: pytest.MonkeyPatch, step: str, *, committed: bool) -> None:
    """Let the connection be lost at the first call of a step, before or after it was carried out."""
    if step == "claim":
        claim = losing_the_answer(type(Job.objects.all()).claim, carried_out=committed)
        monkeypatch.setattr(Job, "objects", Lossy(Job.objects, claim))
    elif step == "renew":
        monkeypatch.setattr(Job, step, losing_the_answer(Job.renew, carried_out=committed))
    elif step == "succeed":
        monkeypatch.setattr(publication, "_write", losing_the_answer(publication._write, carried_out=committed))
    else:
        monkeypatch.setattr(retries, "_write_failure", losing_the_answer(retries._write_failure, carried_out=committed))


class Lossy:
    """A manager whose ``claim`` loses its connection once."""

    def __init__(self, manager: Any, claim: Any) -> None:
        self._manager = manager
        self._claim = claim

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        return self._claim(self._manager.all(), *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)


def losing_the_answer(original: Any, *, carried_out: bool) -> Any:
    """Return a function whose first answer is lost, with or without what it was to do."""
    lost: list[None] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if lost:
            return original(*args, **kwargs)
        lost.append(None)
        if carried_out:
            original(*args, **kwargs)
        raise OperationalError("server closed the connection unexpectedly")

    return call


def failing_after(original: Any, failing: Any, *, good_calls: int) -> Any:
    """Return a function that works for some calls and fails afterwards."""
    left = iter(range(good_calls))

    def call(*args: Any, **kwargs: Any) -> Any:
        return failing() if next(left, None) is None else original(*args, **kwargs)

    return call


def failing_once_for(event: str) -> Any:
    """Return a way to write to the trail that fails for one kind of event."""
    original = AuditEntry.objects.record

    def record(kind: Any, **values: Any) -> Any:
        if kind == event:
            raise OperationalError("disk full")
        return original(kind, **values)

    return record
