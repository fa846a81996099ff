"""Cancelling: what waits never runs, what runs ends and leaves nothing, and exactly one of cancel and publish wins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.db.models.functions import Now
from model_bakery import baker
from pytest_django import Settings

from coderepos import engine, services, signals
from coderepos.crypto.secret import Secret
from coderepos.exceptions import InvalidState, NotFound, PermissionDenied
from coderepos.git.results import Progress
from coderepos.models import (
    AuditEntry,
    CloneStatus,
    CodeRepository,
    Job,
    JobKind,
    JobState,
    LeaseLost,
    Node,
    Purge,
    get_project_model,
)
from coderepos.sandbox.sandbox import Sandbox
from coderepos.services import leases
from coderepos.services.disk import publication, purging
from coderepos.services.leases import Heartbeat, Lease
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server of one repository."""
    make_repository(tmp_path / "served/repository")
    with GitServer(tmp_path / "served") as started:
        yield started


@pytest.fixture
def repository(server: GitServer, settings: Settings, tmp_path: Path) -> CodeRepository:
    """A repository of it that waits for its first clone."""
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
    }
    return baker.make(
        CodeRepository,
        project=baker.make(get_project_model()),
        git_url=server.url("repository"),
        token_ciphertext=Secret(""),
    )


@pytest.fixture
def root(django_user_model: Any) -> Any:
    """Who may do everything."""
    return django_user_model.objects.create_superuser("root")


def queued(repository: CodeRepository, kind: JobKind = JobKind.CLONE) -> Job:
    """Queue a job."""
    return Job.objects.create(repository=repository, kind=kind, max_attempts=2)


def publish_one(repository: CodeRepository) -> str:
    """Let a first clone succeed, and return its version."""
    assert services.worker.run_clone(job_id=queued(repository).pk) == "succeeded"
    repository.refresh_from_db()
    return repository.version


def files_below(path: Path) -> list[Path]:
    """Return every file and link below a directory."""
    return [one for one in path.rglob("*") if not one.is_dir() or one.is_symlink()]


def test_queued_job_never_runs(repository: CodeRepository, root: Any) -> None:
    """Its notification, which may come late, finds nothing to do; the status says what happened."""
    job = queued(repository)

    cancelled = services.cancel_repository(user=root, repository=repository)

    assert (cancelled.pk, cancelled.state, cancelled.error_code) == (job.pk, JobState.CANCELLED, "cancelled")
    assert services.worker.run_clone(job_id=job.pk) == "unclaimed"
    status = services.status_of(repository)
    assert (status.repository.clone_status, status.repository.error_code) == (CloneStatus.FAILED, "cancelled")
    assert status.progress_message == "The clone was cancelled"
    entry = AuditEntry.objects.newest_first()[0]
    assert (entry.event, entry.actor_name, entry.job_id) == ("cancelled", "root", job.pk)


def test_cancelled_repository_is_cloned_again(repository: CodeRepository, root: Any) -> None:
    """What the error advises works."""
    queued(repository)
    services.cancel_repository(user=root, repository=repository)

    again = services.clone_repository(user=root, repository=repository)

    assert services.worker.run_clone(job_id=again.pk) == "succeeded"


@pytest.mark.parametrize("phase", ["receiving", "publishing"])
def test_running_job_leaves_nothing(
    repository: CodeRepository, root: Any, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Wherever the worker is, the next look at its lease ends the attempt, and what it built is removed."""
    job = queued(repository)

    def cancel(*_: Any) -> None:
        services.cancel_repository(user=root, repository=repository)

    if phase == "receiving":
        do_at(monkeypatch, Heartbeat, "on_progress", cancel)
        monkeypatch.setattr(leases, "LOOK_SECONDS", 0)
    else:
        do_at(monkeypatch, Sandbox, "finish_incoming", cancel)

    assert services.worker.run_clone(job_id=job.pk) == "lost"

    job.refresh_from_db()
    assert (job.state, job.repository.clone_status) == (JobState.CANCELLED, CloneStatus.FAILED)
    assert not files_below(engine.sandbox_of(repository).path)
    # The worker has noticed, so that the next request waits for nobody.
    assert services.worker.maintain()
    assert not Purge.objects.exists()
    services.clean_repository(user=root, repository=repository)
    services.worker.maintain()
    Node.objects.update(upkeep_at=None)
    services.worker.maintain()
    assert CodeRepository.objects.get().clone_status == CloneStatus.CLEANED


def test_update_leaves_what_was_published(repository: CodeRepository, root: Any, server: GitServer) -> None:
    """A COMPLETED repository whose next clone is cancelled stays as it is."""
    version = publish_one(repository)
    queued(repository, JobKind.UPDATE)

    services.cancel_repository(user=root, repository=repository)

    repository.refresh_from_db()
    assert (repository.clone_status, repository.version, repository.error_code) == ("COMPLETED", version, "")
    assert services.status_of(repository).progress_message == "Repository successfully cloned"


@pytest.mark.parametrize("kind", [JobKind.CLONE, JobKind.UPDATE])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_one_of_cancel_and_publication_wins(
    repository: CodeRepository, root: Any, server: GitServer, monkeypatch: pytest.MonkeyPatch, kind: str, moment: str
) -> None:
    """Between the link and the row a cancel still wins; after the row it is told that there is nothing to cancel."""
    first = publish_one(repository) if kind == JobKind.UPDATE else ""
    git("commit", "--quiet", "--allow-empty", "-m", "next", cwd=server.root / "repository")
    job = queued(repository, JobKind(kind))
    answers: list[str] = []

    def cancel(*_: Any) -> None:
        try:
            answers.append(services.cancel_repository(user=root, repository=repository).state)
        except InvalidState as error:
            answers.append(error.code)

    if moment == "before":
        do_at(monkeypatch, publication, "_write", cancel)
    else:
        do_at(monkeypatch, publication, "_write", cancel, first=False)

    outcome = services.worker.run_clone(job_id=job.pk)

    repository.refresh_from_db()
    job.refresh_from_db()
    sandbox = engine.sandbox_of(repository)
    if moment == "before":
        assert (outcome, answers, job.state) == ("lost", [JobState.CANCELLED], JobState.CANCELLED)
        assert repository.version == first
        assert sandbox.tokens() == ({first} if first else set())
        assert sandbox.current() == (first or None)
    else:
        assert (outcome, answers, job.state) == ("succeeded", ["invalid_state"], JobState.SUCCEEDED)
        assert repository.version == sandbox.current() == str(job.lease_token)


def do_at(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[..., None], *, first: bool = True
) -> None:
    """Do something once, before or after a step, in another thread as another process would."""
    original = getattr(owner, name)
    done: list[bool] = []

    def act(*arguments: Any) -> None:
        def in_own_connections() -> None:
            action(*arguments)
            connections.close_all()

        if not done:
            done.append(True)
            thread = threading.Thread(target=in_own_connections)
            thread.start()
            thread.join()

    def step(*arguments: Any, **named: Any) -> Any:
        if first:
            act(*arguments)
        result = original(*arguments, **named)
        act(*arguments)
        return result

    monkeypatch.setattr(owner, name, step)


def test_worker_asks_although_nothing_moves(repository: CodeRepository, root: Any) -> None:
    """A clone that receives nothing asks with each report, a second apart, and extends its lease every ten."""
    claim = Job.objects.claim(queued(repository).pk, node="node")
    assert claim is not None
    heartbeat = Heartbeat(Lease(claim, leases.now_seconds()))
    still = Progress(phase="receiving", received_bytes=7)
    heartbeat.on_progress(still)
    heartbeat._looked_at -= 1  # a second passes
    heartbeat.on_progress(still)
    services.cancel_repository(user=root, repository=repository)

    heartbeat._looked_at -= 1
    with pytest.raises(LeaseLost):
        heartbeat.on_progress(still)


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, None])
def test_nothing_to_cancel(repository: CodeRepository, root: Any, state: str | None) -> None:
    """What has ended stays as it ended."""
    if state:
        Job.objects.filter(pk=queued(repository).pk).update(state=state)
    CodeRepository.objects.filter(pk=repository.pk).update(clone_status=CloneStatus.COMPLETED)

    with pytest.raises(InvalidState, match=r"nothing to cancel.*it is COMPLETED"):
        services.cancel_repository(user=root, repository=repository)

    assert not AuditEntry.objects.filter(event="cancelled").exists()


def test_cancel_by_others(repository: CodeRepository, root: Any, django_user_model: Any) -> None:
    """A role that does not allow it changes nothing; a repository that is gone is told as that."""
    job = queued(repository)
    with pytest.raises(PermissionDenied):
        services.cancel_repository(user=django_user_model.objects.create_user("stranger"), repository=repository)
    job.refresh_from_db()
    assert job.state == JobState.QUEUED

    CodeRepository.objects.filter(pk=repository.pk).delete()
    with pytest.raises(NotFound):
        services.cancel_repository(user=root, repository=repository)


def test_signal_is_sent_once_after_commit(repository: CodeRepository, root: Any) -> None:
    """A receiver finds the job cancelled, and its exception harms nothing."""
    heard: list[tuple[Any, str]] = []

    def listen(**sent: Any) -> None:
        heard.append((sent["repository_id"], Job.objects.get(pk=sent["job_id"]).state))
        raise RuntimeError("a receiver of the host")

    queued(repository)
    signals.repository_cancelled.connect(listen)
    try:
        services.cancel_repository(user=root, repository=repository)
    finally:
        signals.repository_cancelled.disconnect(listen)

    assert heard == [(repository.pk, JobState.CANCELLED)]


def test_worker_that_lost_its_job_to_another_settles_nothing(repository: CodeRepository, root: Any) -> None:
    """Only the one whose job was cancelled says that it has noticed."""
    job = queued(repository)
    first = Job.objects.claim(job.pk, node="node")
    Job.objects.filter(pk=job.pk).update(lease_until=Now() - timedelta(seconds=1))
    second = Job.objects.claim(job.pk, node="node")
    assert first is not None
    assert second is not None
    services.cancel_repository(user=root, repository=repository)
    settled = Purge.objects.filter(settles_at__lte=Now())

    purging.settle(first)
    assert not settled.exists()
    purging.settle(second)
    assert settled.exists()
