"""Nothing is stuck, and nothing is left behind."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
from django.db import OperationalError
from django.db.models.functions import Now
from django_q.models import OrmQ
from model_bakery import baker
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from coderepos import engine, queues, services, signals
from coderepos.crypto.secret import Secret
from coderepos.exceptions import CodeReposError, SandboxRefused
from coderepos.models import CloneStatus, CodeRepository, Job, JobState, Node
from coderepos.projects.models import Project
from coderepos.sandbox.sandbox import Sandbox
from coderepos.services import cloning
from coderepos.services.disk import purging, this_machine
from coderepos.services.rounds import expired_leases

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def sandbox_base(settings: Settings, tmp_path: Path) -> Path:
    """A sandbox root of this test's own."""
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(tmp_path / "repos")}
    return tmp_path / "repos"


@pytest.fixture
def job() -> Job:
    """A queued clone."""
    return queued_job("https://h/r")


def queued_job(git_url: str) -> Job:
    """Store a clone that waits for a worker."""
    repository = baker.make(
        CodeRepository,
        project=baker.make(Project),
        git_url=git_url,
        url_key=git_url,
        token_ciphertext=Secret("t" * 30),
    )
    return Job.objects.create(repository=repository, max_attempts=2)


def expire_lease(job: Job) -> None:
    """Let the lease of a job have expired a second ago."""
    Job.objects.filter(pk=job.pk).update(lease_until=Now() - timedelta(seconds=1))


def test_last_failure_is_signalled_though_the_clean_up_fails(
    job: Job, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    """Receivers are told that a job has failed even if a purge can't be requested."""
    Job.objects.filter(pk=job.pk).update(max_attempts=1)
    claimed = Job.objects.claim(job.pk, node="gone")
    assert claimed is not None
    expire_lease(job)
    heard = mock.Mock()
    signals.repository_failed.connect(heard)
    monkeypatch.setattr(expired_leases, "request_purge", mock.Mock(side_effect=OperationalError))

    try:
        with django_capture_on_commit_callbacks(execute=True):
            assert expired_leases._expire_lease(claimed) == JobState.FAILED
    finally:
        signals.repository_failed.disconnect(heard)

    assert heard.call_args.kwargs["error_code"] == "worker_lost"


def test_job_whose_lease_expired_is_enqueued_again(
    job: Job, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    """A job whose lease expired is queued again with its repository PENDING, and a worker is notified."""
    Job.objects.claim(job.pk, node="gone")
    expire_lease(job)

    with django_capture_on_commit_callbacks(execute=True):
        assert services.worker.reap() == "1 leases expired, 1 jobs enqueued"

    job.refresh_from_db()
    assert (job.state, job.attempt, job.lease_token) == (JobState.QUEUED, 1, None)
    assert job.repository.clone_status == CloneStatus.PENDING
    assert list(Job.objects.due()) == [job]


def test_what_a_dead_worker_left_goes_at_once(job: Job) -> None:
    """Its machine purges it, since the next attempt may run on another one; what that builds stays."""
    node = services.worker.register_node()
    sandbox = engine.sandbox_of(job.repository)
    this_machine.prepare_root(node)
    tokens = []
    for _ in range(2):
        expire_lease(job)
        services.worker.reap()
        claimed = Job.objects.claim(job.pk, node=node.name)
        assert claimed
        tokens.append(str(claimed.lease_token))
        sandbox.create_incoming(tokens[-1])

    purging.purge(node)

    assert list(sandbox.incomings()) == tokens[1:]


def test_lease_that_expires_on_the_last_attempt_fails_the_job(job: Job) -> None:
    """With no attempt left the job and its repository are FAILED with worker_lost."""
    for _ in range(2):
        assert Job.objects.claim(job.pk, node="gone")
        expire_lease(job)

    services.worker.reap()

    job.refresh_from_db()
    assert (job.state, job.error_code) == (JobState.FAILED, "worker_lost")
    assert (job.repository.clone_status, job.repository.error_code) == (CloneStatus.FAILED, "worker_lost")


def test_living_worker_keeps_its_job(job: Job) -> None:
    """The reaper leaves a job alone while its lease holds."""
    claimed = Job.objects.claim(job.pk, node="here")
    assert claimed

    services.worker.reap()

    job.refresh_from_db()
    assert (job.state, job.lease_token) == (JobState.RUNNING, claimed.lease_token)


def test_reaper_enqueues_due_jobs_once_in_a_while(
    job: Job, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    """A due job that was never enqueued is enqueued, and not again in the next round."""
    with django_capture_on_commit_callbacks(execute=True):
        assert services.worker.reap() == "0 leases expired, 1 jobs enqueued"

    assert services.worker.reap() == "0 leases expired, 0 jobs enqueued"
    assert Node.objects.alive().get().isolation_level >= 1


def test_reaper_repeats_a_notification_that_no_worker_acted_on(
    job: Job, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    """A notification that was lost with its cluster is sent again, twice, once the next round comes."""
    with django_capture_on_commit_callbacks(execute=True):
        services.worker.reap()
    OrmQ.objects.all().delete()  # fetched by a cluster that died
    Job.objects.update(enqueued_at=Now() - timedelta(seconds=9))

    with django_capture_on_commit_callbacks(execute=True):
        assert services.worker.reap() == "0 leases expired, 1 jobs enqueued"

    assert OrmQ.objects.count() == 2


def test_backlog_is_not_enqueued_again(
    job: Job, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    """While enough notifications wait for a worker, none is repeated; each leads to the oldest due job anyway."""
    jobs = [job, *(queued_job(f"https://h/{number}") for number in range(60))]
    with django_capture_on_commit_callbacks(execute=True):
        for one in jobs:
            queues.enqueue(one)
    Job.objects.update(enqueued_at=Now() - timedelta(minutes=5))

    for _ in range(3):
        with django_capture_on_commit_callbacks(execute=True):
            services.worker.reap()

    assert OrmQ.objects.count() == len(jobs)


def test_worker_whose_job_is_taken_works_on_the_oldest_due_one(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notification of a finished job serves another one, whose own was lost."""
    Job.objects.filter(pk=job.pk).update(state=JobState.SUCCEEDED)
    later, older = queued_job("https://h/later"), queued_job("https://h/older")
    Job.objects.filter(pk=older.pk).update(created_at=Now() - timedelta(hours=1))
    attempted: list[uuid.UUID] = []
    monkeypatch.setattr(cloning, "_attempt", lambda lease: attempted.append(lease.job.pk))

    for _ in range(3):
        services.worker.run_clone(job_id=job.pk)

    assert attempted == [older.pk, later.pk]


def test_one_job_that_cannot_be_taken_keeps_none_of_the_others(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The round goes on after an error, and the machine counts as alive at its end."""
    jobs = [job, queued_job("https://h/second")]
    for one in jobs:
        Job.objects.claim(one.pk, node="gone")
        expire_lease(one)
    original = Job.expire_lease

    def fail_for_one(self: Job, error: CodeReposError) -> JobState | None:
        if self.pk == job.pk:
            raise RuntimeError("this row is broken")
        return original(self, error)

    monkeypatch.setattr(Job, "expire_lease", fail_for_one)

    services.worker.reap()

    assert [Job.objects.get(pk=one.pk).state for one in jobs] == [JobState.RUNNING, JobState.QUEUED]
    assert "this row is broken" in caplog.text
    assert Node.objects.alive().exists()


def test_standstill_is_loud(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    """Due jobs that no worker takes while none runs are a critical line in the log, with what to do."""
    services.worker.reap()
    assert "restart the cluster" not in caplog.text

    Job.objects.filter(pk=job.pk).update(created_at=Now() - timedelta(minutes=5))
    services.worker.reap()

    assert "restart the cluster" in caplog.text


def test_sweep_removes_what_no_row_knows(job: Job, sandbox_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old versions and directories of deleted repositories are removed; published and building ones stay."""
    claimed = Job.objects.claim(job.pk, node="here")
    assert claimed
    this_machine.prepare_root(services_node())
    sandbox = engine.sandbox_of(job.repository)
    for version in ("published", "lost"):
        incoming = sandbox.create_incoming(version)
        (incoming / "tree").mkdir()
        sandbox.finish_incoming(version)
    sandbox.activate("published")
    sandbox.create_incoming(str(claimed.lease_token))
    sandbox.create_incoming("dead")
    CodeRepository.objects.filter(pk=job.repository_id).update(version="published")
    orphan = Sandbox(engine.sandbox_root(), "p", str(uuid.uuid4()))
    orphan.create_incoming("x")
    stranger = sandbox_base / "lost+found" / "x"
    stranger.mkdir(parents=True)
    let_age(monkeypatch)

    services.worker.sweep()

    assert set(sandbox.versions()) == {"published"}
    assert set(sandbox.incomings()) == {str(claimed.lease_token)}
    assert not orphan.path.exists()
    assert stranger.exists()


def test_sweep_leaves_what_is_young(job: Job) -> None:
    """What is younger than a quarter of an hour may be somebody's work."""
    this_machine.prepare_root(services_node())
    sandbox = engine.sandbox_of(job.repository)
    sandbox.create_incoming("young")

    services.worker.sweep()

    assert set(sandbox.incomings()) == {"young"}


def test_root_of_another_installation_is_neither_swept_nor_used(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker that this database does not know keeps the sweep out, and fails jobs with a retry."""
    engine.sandbox_root().prepare(str(uuid.uuid4()))
    foreign = Sandbox(engine.sandbox_root(), "p", str(uuid.uuid4()))
    foreign.create_incoming("theirs")
    let_age(monkeypatch)

    with pytest.raises(SandboxRefused):
        services.worker.sweep()
    assert services.worker.run_clone(job_id=job.pk) == "retry_scheduled"

    job.refresh_from_db()
    assert job.error_code == "sandbox_refused"
    assert set(foreign.incomings()) == {"theirs"}


def test_machine_that_changed_its_name_keeps_its_root(settings: Settings, sandbox_base: Path) -> None:
    """A container that comes back under another host name takes over the root that this database marked."""
    this_machine.prepare_root(services_node())

    settings.CODEREPOS = {**settings.CODEREPOS, "NODE_ID": "another"}
    this_machine.prepare_root(services_node())

    first, second = Node.objects.order_by("created_at")
    assert first.root_id == second.root_id


def services_node() -> Node:
    """This machine's row."""
    return this_machine.register_node()


def let_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything that is there by now be old enough to be swept; ages are counted from the inode's change."""
    monkeypatch.setattr(this_machine, "SWEEP_AFTER_SECONDS", 0.05)
    time.sleep(0.1)
