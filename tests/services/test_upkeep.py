"""Nothing is stuck, and nothing is left behind."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from django.db.models.functions import Now
from model_bakery import baker
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.exceptions import SandboxRefused
from coderepos.models import CloneStatus, CodeRepository, Job, JobState, Node, Project
from coderepos.services import engine, upkeep

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def sandbox_base(settings: Settings, tmp_path: Path) -> Path:
    """A sandbox root of this test's own."""
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(tmp_path / "repos")}
    return tmp_path / "repos"


@pytest.fixture
def job() -> Job:
    """A queued clone."""
    repository = baker.make(
        CodeRepository, project=baker.make(Project), git_url="https://h/r", token_ciphertext=Secret("t" * 30)
    )
    return Job.objects.create(repository=repository, max_attempts=2)


def lapse(job: Job) -> None:
    """Let the lease of a job have ended a second ago."""
    Job.objects.filter(pk=job.pk).update(lease_until=Now() - timedelta(seconds=1))


def test_silent_worker_loses_its_job_and_the_next_attempt_is_rung_for(
    job: Job, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    """A job whose lease lapsed is queued again with its repository PENDING, and somebody rings."""
    Job.objects.claim(job.pk, node="gone")
    lapse(job)

    services.reap()

    job.refresh_from_db()
    assert (job.state, job.attempt, job.lease_token) == (JobState.QUEUED, 1, None)
    assert job.repository.clone_status == CloneStatus.PENDING
    assert list(Job.objects.due()) == [job]


def test_silent_worker_on_the_last_attempt_fails_the_job(job: Job) -> None:
    """With no attempt left the job and its repository are FAILED with worker_lost."""
    for _ in range(2):
        assert Job.objects.claim(job.pk, node="gone")
        lapse(job)

    services.reap()

    job.refresh_from_db()
    assert (job.state, job.error_code) == (JobState.FAILED, "worker_lost")
    assert (job.repository.clone_status, job.repository.error_code) == (CloneStatus.FAILED, "worker_lost")


def test_living_worker_keeps_its_job(job: Job) -> None:
    """The reaper leaves a job alone while its lease holds."""
    claimed = Job.objects.claim(job.pk, node="here")
    assert claimed

    services.reap()

    job.refresh_from_db()
    assert (job.state, job.lease_token) == (JobState.RUNNING, claimed.lease_token)


def test_reaper_rings_for_due_jobs_once_in_a_while(
    job: Job, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    """A due job that nobody rang for is rung for, and not again at the next tick."""
    with django_capture_on_commit_callbacks(execute=True):
        assert services.reap() == "0 taken from silent workers, 1 rung for"

    assert services.reap() == "0 taken from silent workers, 0 rung for"
    assert Node.objects.alive().get().isolation_level >= 1


def test_sweep_removes_what_no_row_knows(job: Job, sandbox_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old versions and folders of repositories that are gone are removed, published and building ones stay."""
    claimed = Job.objects.claim(job.pk, node="here")
    assert claimed
    upkeep.prepare_root(services_node())
    sandbox = engine.sandbox_of(job.repository)
    for version in ("published", "lost"):
        incoming = sandbox.incoming(version)
        (incoming / "tree").mkdir()
        sandbox.publish(version)
    sandbox.flip("published")
    sandbox.incoming(str(claimed.lease_token))
    sandbox.incoming("dead")
    CodeRepository.objects.filter(pk=job.repository_id).update(version="published")
    orphan = engine.sandbox_root().sandbox("p", str(uuid.uuid4()))
    orphan.incoming("x")
    stranger = sandbox_base / "lost+found" / "x"
    stranger.mkdir(parents=True)
    let_age(monkeypatch)

    services.sweep()

    assert set(sandbox.versions()) == {"published"}
    assert set(sandbox.incomings()) == {str(claimed.lease_token)}
    assert not orphan.path.exists()
    assert stranger.exists()


def test_sweep_leaves_what_is_young(job: Job) -> None:
    """What is younger than a quarter of an hour may be somebody's work."""
    upkeep.prepare_root(services_node())
    sandbox = engine.sandbox_of(job.repository)
    sandbox.incoming("young")

    services.sweep()

    assert set(sandbox.incomings()) == {"young"}


def test_root_of_another_installation_is_neither_swept_nor_used(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker that this database does not know keeps the sweep out, and fails jobs with a retry."""
    engine.sandbox_root().prepare(str(uuid.uuid4()))
    foreign = engine.sandbox_root().sandbox("p", str(uuid.uuid4()))
    foreign.incoming("theirs")
    let_age(monkeypatch)

    with pytest.raises(SandboxRefused):
        services.sweep()
    services.start_worker()
    assert services.run_clone(job_id=job.pk) == "postponed"

    job.refresh_from_db()
    assert job.error_code == "sandbox_refused"
    assert set(foreign.incomings()) == {"theirs"}


def test_machine_that_changed_its_name_keeps_its_root(settings: Settings, sandbox_base: Path) -> None:
    """A container that comes back under another host name takes over the root that this database marked."""
    upkeep.prepare_root(services_node())

    settings.CODEREPOS = {**settings.CODEREPOS, "NODE_ID": "another"}
    upkeep.prepare_root(services_node())

    first, second = Node.objects.order_by("created_at")
    assert first.root_id == second.root_id


def services_node() -> Node:
    """This machine's row."""
    return upkeep.register_node()


def let_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything that is there by now be old enough to be swept; ages are counted from the inode's change."""
    monkeypatch.setattr(upkeep, "SWEEP_AFTER_SECONDS", 0.05)
    time.sleep(0.1)
