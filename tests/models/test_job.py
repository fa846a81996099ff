"""Every state transition wins once, under its condition, by the database's clock."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from model_bakery import baker

from coderepos.crypto.secret import Secret
from coderepos.exceptions import RemoteTimeout
from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, JobState, LeaseLost
from coderepos.projects.models import Project
from tests.support.database import ALIAS, connection

pytestmark = pytest.mark.django_db
ERROR = RemoteTimeout()


@pytest.fixture
def repository() -> CodeRepository:
    """A repository that waits for its first clone."""
    return baker.make(CodeRepository, project=baker.make(Project), git_url="https://h/r", token_ciphertext=Secret(""))


@pytest.fixture
def job(repository: CodeRepository) -> Job:
    """Its queued job, with two attempts."""
    return Job.objects.create(repository=repository, max_attempts=2)


def claimed(job: Job) -> Job:
    """Return the job under a new lease."""
    claim = Job.objects.claim(job.pk, node="node")
    assert claim is not None
    return claim


def state_of(job: Job) -> tuple[str, str]:
    """Return what is stored of a job and its repository."""
    return Job.objects.values_list("state", "repository__clone_status").get(pk=job.pk)


def expire_lease(job: Job) -> None:
    """Let the lease have expired a second ago."""
    Job.objects.filter(pk=job.pk).update(lease_until=Now() - timedelta(seconds=1))


def test_claim_takes_a_queued_job(job: Job) -> None:
    """A claim counts the attempt, holds a lease of a minute, and moves the repository to CLONING."""
    claim = claimed(job)

    assert state_of(job) == (JobState.RUNNING, CloneStatus.CLONING)
    assert (claim.attempt, claim.node) == (1, "node")
    assert claim.lease_until is not None
    assert claim.heartbeat_at is not None
    assert claim.lease_until - claim.heartbeat_at == timedelta(seconds=60)


def test_second_claim_gets_nothing(job: Job) -> None:
    """A running job with a living lease belongs to one worker."""
    claimed(job)

    assert Job.objects.claim(job.pk, node="other") is None


def test_claim_of_an_expired_lease_takes_the_job_over(job: Job) -> None:
    """A new lease replaces the expired one, whose owner can't change the job any more."""
    first = claimed(job)
    expire_lease(job)

    second = claimed(job)

    assert (second.attempt, second.lease_token != first.lease_token) == (2, True)
    with pytest.raises(LeaseLost):
        first.renew(progress={}, bytes_received=0)
    with pytest.raises(LeaseLost), transaction.atomic(using=ALIAS):
        first.succeed(repository_values={})
    assert not first.fail(ERROR)
    assert not first.schedule_retry(ERROR)
    assert state_of(job) == (JobState.RUNNING, CloneStatus.CLONING)


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_finished_job_is_never_claimed(job: Job, state: JobState) -> None:
    """A notification that arrives after its job is finished is ignored."""
    Job.objects.filter(pk=job.pk).update(state=state)

    assert Job.objects.claim(job.pk, node="node") is None


def test_unknown_and_exhausted_jobs_are_not_claimed(job: Job) -> None:
    """No row, or no attempt left, is nothing to do."""
    assert Job.objects.claim(uuid.uuid4(), node="node") is None
    Job.objects.filter(pk=job.pk).update(attempt=2)
    assert Job.objects.claim(job.pk, node="node") is None


def test_retry_waits_for_its_time(job: Job) -> None:
    """After a transient failure the job can't be claimed for 60 s, and 120 s after the next one."""
    for seconds in (60, 120):
        Job.objects.filter(pk=job.pk).update(max_attempts=4)
        assert claimed(job).schedule_retry(ERROR)

        assert state_of(job) == (JobState.QUEUED, CloneStatus.PENDING)
        assert Job.objects.claim(job.pk, node="node") is None
        row = Job.objects.annotate(now=Now()).get(pk=job.pk)
        assert row.next_attempt_at is not None
        wait = row.next_attempt_at - row.now  # type: ignore[attr-defined]  # annotated
        assert timedelta(seconds=seconds - 5) < wait <= timedelta(seconds=seconds)
        assert row.repository.error_code == "remote_timeout"
        Job.objects.filter(pk=job.pk).update(next_attempt_at=Now())

    assert claimed(job).attempt == 3


def test_job_of_a_repository_in_another_state_is_cancelled(job: Job) -> None:
    """A clone that is no longer wanted ends as CANCELLED instead of overwriting a state."""
    CodeRepository.objects.filter(pk=job.repository_id).update(clone_status=CloneStatus.CLEANED)

    assert Job.objects.claim(job.pk, node="node") is None
    assert state_of(job) == (JobState.CANCELLED, CloneStatus.CLEANED)


def test_success_completes_the_repository(job: Job) -> None:
    """Job and repository become final together."""
    claim = claimed(job)

    with transaction.atomic(using=ALIAS):
        claim.succeed(repository_values={"sandbox_path": "/s", "version": "v"}, bytes_received=7)

    assert state_of(job) == (JobState.SUCCEEDED, CloneStatus.COMPLETED)
    job.refresh_from_db()
    assert (job.bytes_received, job.finished_at is not None, job.repository.sandbox_path) == (7, True, "/s")


def test_success_is_undone_where_the_repository_moved_on(job: Job) -> None:
    """A repository that is no longer CLONING keeps its state, and the transaction must not be committed."""
    claim = claimed(job)
    CodeRepository.objects.filter(pk=job.repository_id).update(clone_status=CloneStatus.CLEANING)

    with pytest.raises(LeaseLost), transaction.atomic(using=ALIAS):
        claim.succeed(repository_values={})

    assert state_of(job) == (JobState.RUNNING, CloneStatus.CLEANING)


def test_failure_is_final_until_somebody_asks_again(job: Job) -> None:
    """FAILED goes back to PENDING by request alone, and only once."""
    assert claimed(job).fail(ERROR)
    assert state_of(job) == (JobState.FAILED, CloneStatus.FAILED)

    assert job.repository.restart()
    assert not job.repository.restart()


@pytest.mark.parametrize("ending", ["schedule_retry", "fail", "expire_lease"])
def test_failed_update_leaves_the_repository_as_it_was(repository: CodeRepository, ending: str) -> None:
    """The earlier version stays published, and only the job has the error."""
    CodeRepository.objects.filter(pk=repository.pk).update(clone_status=CloneStatus.COMPLETED, version="one")
    job = Job.objects.create(repository=repository, kind=JobKind.UPDATE, max_attempts=2)
    claim = claimed(job)
    assert state_of(job) == (JobState.RUNNING, CloneStatus.COMPLETED)

    if ending == "expire_lease":
        expire_lease(job)
    getattr(claim, ending)(ERROR)

    assert state_of(job) == (JobState.FAILED if ending == "fail" else JobState.QUEUED, CloneStatus.COMPLETED)
    repository.refresh_from_db()
    assert (repository.version, repository.error_code) == ("one", "")


def test_update_publishes_its_version(repository: CodeRepository) -> None:
    """COMPLETED stays COMPLETED, with the figures of the new version."""
    CodeRepository.objects.filter(pk=repository.pk).update(clone_status=CloneStatus.COMPLETED, version="one")
    job = Job.objects.create(repository=repository, kind=JobKind.UPDATE)

    with transaction.atomic(using=ALIAS):
        claimed(job).succeed(repository_values={"version": "two"})

    assert state_of(job) == (JobState.SUCCEEDED, CloneStatus.COMPLETED)
    repository.refresh_from_db()
    assert repository.version == "two"


def test_update_of_what_is_being_removed_is_cancelled(repository: CodeRepository) -> None:
    """A job whose repository moved on does nothing."""
    job = Job.objects.create(repository=repository, kind=JobKind.UPDATE)
    CodeRepository.objects.filter(pk=repository.pk).update(clone_status=CloneStatus.CLEANING)

    assert Job.objects.claim(job.pk, node="node") is None
    assert state_of(job) == (JobState.CANCELLED, CloneStatus.CLEANING)


def test_valid_lease_cannot_be_expired(job: Job) -> None:
    """The job of an owner that came back, or of a second reaper, is left as it was."""
    claim = claimed(job)
    assert claim.expire_lease(ERROR) is None

    expire_lease(job)
    stale = Job.objects.get(pk=job.pk)
    claimed(job)
    expire_lease(job)
    assert stale.expire_lease(ERROR) is None
    assert Job.objects.get(pk=job.pk).expire_lease(ERROR) == JobState.FAILED
    assert Job.objects.get(pk=job.pk).expire_lease(ERROR) is None


def test_one_open_job_per_repository(job: Job) -> None:
    """The database itself refuses a second unfinished job."""
    with pytest.raises(IntegrityError), transaction.atomic(using=ALIAS):
        Job.objects.create(repository=job.repository)

    Job.objects.filter(pk=job.pk).update(state=JobState.SUCCEEDED)
    Job.objects.create(repository=job.repository)
    assert job.repository.jobs.count() == 2


@pytest.mark.django_db(transaction=True)
def test_many_workers_claim_one_job() -> None:
    """Of eight workers that are notified at once, one gets the job."""
    project = baker.make(Project)
    repository = baker.make(CodeRepository, project=project, git_url="https://h/r", token_ciphertext=Secret(""))
    job = Job.objects.create(repository=repository)
    won: list[Job] = []
    start = threading.Barrier(8)

    def work() -> None:
        try:
            start.wait()
            if claim := Job.objects.claim(job.pk, node="node"):
                won.append(claim)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert Job.objects.get().attempt == 1
