"""The status of a repository: one honest sentence per state, and the figures beside it."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries
from rest_framework.test import APIClient

from coderepos import services
from coderepos.api.serializers import status_body
from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, JobState
from coderepos.projects.models import Project
from coderepos.services.repositories.status import _OF_JOB, _OF_REPOSITORY, find_status
from tests.api.conftest import ADDRESS, MakeRepository


def status_of(api: APIClient, repository: CodeRepository) -> dict[str, Any]:
    """Return the body of the status call."""
    response = api.get(f"{ADDRESS}/repos/{repository.pk}/status")
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


def running(repository: CodeRepository, **values: Any) -> Job:
    """Let a worker work on ``repository``."""
    return Job.objects.create(
        repository=repository,
        state=JobState.RUNNING,
        heartbeat_at=datetime(2024, 1, 15, 10, 30, tzinfo=UTC),
        **{"attempt": 1, **values},
    )


def test_complete_repository_has_the_documented_body(api: APIClient, make_repository: MakeRepository) -> None:
    """The six documented names have their documented values, the others stand beside them."""
    repository = make_repository(
        clone_status=CloneStatus.COMPLETED,
        repository_size_mb=Decimal("28.40"),
        sandbox_path="/tmp/repos/550e/660e/repository",
    )
    job = Job.objects.create(repository=repository, state=JobState.SUCCEEDED, attempt=2)

    body = status_of(api, repository)

    assert list(body.items())[:6] == [
        ("repo_id", str(repository.pk)),
        ("clone_status", "COMPLETED"),
        ("repository_size_mb", 28.4),
        ("sandbox_path", "/tmp/repos/550e/660e/repository"),
        ("progress_message", "Repository successfully cloned"),
        ("error_message", None),
    ]
    assert (body["task_id"], body["attempt"], body["max_attempts"]) == (str(job.pk), 2, 4)
    assert set(body) == {
        "repo_id",
        "clone_status",
        "repository_size_mb",
        "sandbox_path",
        "progress_message",
        "error_message",
        "error_code",
        "retryable",
        "token_status",
        "token_expires_at",
        "task_id",
        "attempt",
        "max_attempts",
        "next_attempt_at",
        "heartbeat_at",
        "progress",
        "queue_position",
        "updated_at",
    }
    assert (body["progress"], body["queue_position"], body["next_attempt_at"]) == (None, None, None)


@pytest.mark.parametrize("status", CloneStatus.values)
def test_every_state_has_a_sentence(api: APIClient, make_repository: MakeRepository, status: str) -> None:
    """No state leaves the reader without a sentence, not even where there is no job."""
    body = status_of(api, make_repository(clone_status=status))

    assert body["clone_status"] == status
    assert body["progress_message"]
    assert (body["task_id"], body["attempt"], body["max_attempts"], body["progress"]) == (None, 0, None, None)


def test_states_have_different_sentences(api: APIClient, make_repository: MakeRepository) -> None:
    """A reader can tell the states apart by the sentence alone."""
    sentences = {status_of(api, make_repository(clone_status=status))["progress_message"] for status in CloneStatus}

    assert len(sentences) == len(CloneStatus)


@pytest.mark.parametrize(
    ("progress", "sentence", "figures"),
    [
        ({}, "Starting to clone", {"phase": "starting", "received_mb": 0.0, "objects": 0, "percent": None}),
        ({"phase": "connecting"}, "Connecting to the Git host", {"phase": "connecting"}),
        (
            {"phase": "receiving", "received_bytes": 12_345_678, "objects": 5, "total_objects": 10},
            "Receiving objects: 12.3 of at most 100 MB",
            {"phase": "receiving", "received_mb": 12.3, "limit_mb": 100, "objects": 5, "percent": 50},
        ),
        (
            {"phase": "resolving", "received_bytes": 20_000_000, "objects": 999, "total_objects": 1000},
            "Resolving deltas: 99 %",
            {"received_mb": 20.0, "objects": 999, "percent": 99},
        ),
        ({"phase": "writing", "objects": 3, "total_objects": 0}, "Writing files", {"objects": 3, "percent": None}),
        ({"phase": "writing", "objects": 3, "total_objects": 2}, "Writing files: 100 %", {"percent": 100}),
        ({"phase": "publishing"}, "Publishing the clone", {"phase": "publishing"}),
        ({"phase": "of a newer worker"}, "Starting to clone", {"phase": "of a newer worker"}),
    ],
)
def test_phases_of_a_running_clone(
    api: APIClient, make_repository: MakeRepository, progress: Any, sentence: str, figures: Any
) -> None:
    """While a worker clones, the sentence says the phase and its figures."""
    repository = make_repository(clone_status=CloneStatus.CLONING)
    running(repository, progress=progress)

    body = status_of(api, repository)

    assert body["progress_message"] == sentence
    assert body["progress"].items() >= figures.items()
    assert set(body["progress"]) == {"phase", "received_mb", "limit_mb", "objects", "percent"}
    assert body["heartbeat_at"] == "2024-01-15T10:30:00Z"


def test_limit_is_the_one_that_is_set(api: APIClient, make_repository: MakeRepository, settings: Any) -> None:
    """A changed limit shows at once, without a fraction where it has none."""
    settings.CODEREPOS = settings.CODEREPOS | {"MAX_REPO_SIZE_MB": 2500.5}
    repository = make_repository(clone_status=CloneStatus.CLONING)
    running(repository, progress={"phase": "receiving", "received_bytes": 1})

    body = status_of(api, repository)

    assert body["progress_message"] == "Receiving objects: 0.0 of at most 2500.5 MB"
    assert body["progress"]["limit_mb"] == 2500.5


def test_later_attempts_are_told(api: APIClient, make_repository: MakeRepository) -> None:
    """From the second attempt on, the sentence says which one it is."""
    repository = make_repository(clone_status=CloneStatus.CLONING)
    running(repository, attempt=3, progress={"phase": "connecting"})

    assert status_of(api, repository)["progress_message"] == "Connecting to the Git host (attempt 3 of 4)"


def test_wait_for_a_retry_says_when_and_why(api: APIClient, make_repository: MakeRepository) -> None:
    """Between two attempts the sentence says when the next one starts, and the last error stands beside it."""
    repository = make_repository(error_code="remote_timeout", error_message="The Git host did not answer in time.")
    when = timezone.now() + timedelta(seconds=90)
    Job.objects.create(repository=repository, attempt=1, next_attempt_at=when)

    body = status_of(api, repository)

    text = when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    seconds = int(body["progress_message"].split(" s, at")[0].split()[-1])
    assert 60 < seconds <= 90
    assert body["progress_message"] == f"Attempt 1 of 4 failed; the next one starts in {seconds} s, at {text}"
    assert (body["next_attempt_at"], body["queue_position"]) == (text, None)
    assert (body["error_code"], body["retryable"]) == ("remote_timeout", True)
    assert body["error_message"] == "The Git host did not answer in time."


def test_retry_that_is_due_waits_for_a_worker(api: APIClient, make_repository: MakeRepository) -> None:
    """Once the time of a retry has come, it waits in the queue like any other."""
    repository = make_repository()
    Job.objects.create(repository=repository, attempt=1, next_attempt_at=timezone.now() - timedelta(seconds=1))

    body = status_of(api, repository)

    assert (body["progress_message"], body["queue_position"]) == ("Waiting for a worker", 0)


def test_queue_position_counts_the_due_jobs_before(api: APIClient, make_repository: MakeRepository) -> None:
    """Only jobs of its flow that wait longer are ahead: not running, finished, retrying or younger ones."""
    start = timezone.now() - timedelta(hours=1)

    def queue(minute: int, **values: Any) -> CodeRepository:
        repository = make_repository()
        Job.objects.create(repository=repository, created_at=start + timedelta(minutes=minute), **values)
        return repository

    first = queue(0)
    queue(1, next_attempt_at=start + timedelta(minutes=4))
    queue(1, flow="another tenant")
    queue(2, state=JobState.RUNNING)
    queue(3, state=JobState.SUCCEEDED)
    queue(4, next_attempt_at=timezone.now() + timedelta(hours=1))
    last = queue(5)
    second = queue(0, id=uuid.UUID(int=0))
    queue(6)

    positions = [status_of(api, repository)["queue_position"] for repository in (second, first, last)]
    sentences = [status_of(api, repository)["progress_message"] for repository in (second, first, last)]

    assert positions == [0, 1, 3]
    assert sentences == [
        "Waiting for a worker",
        "Waiting for a worker; 1 job of this project is ahead",
        "Waiting for a worker; 3 jobs of this project are ahead",
    ]


@pytest.mark.parametrize(
    ("code", "retryable"),
    [("remote_unreachable", True), ("remote_auth_failed", False), ("code_of_an_older_version", False)],
)
def test_failure_has_its_error(api: APIClient, make_repository: MakeRepository, code: str, retryable: bool) -> None:
    """A failed clone says why, and whether the same again may help."""
    repository = make_repository(clone_status=CloneStatus.FAILED, error_code=code, error_message="Because.")
    Job.objects.create(repository=repository, state=JobState.FAILED, attempt=4)

    body = status_of(api, repository)

    assert body["progress_message"] == "Repository could not be cloned"
    assert (body["error_code"], body["error_message"], body["retryable"]) == (code, "Because.", retryable)


def test_clone_that_is_gone_says_so(api: APIClient, make_repository: MakeRepository) -> None:
    """What was cloned and got lost did not fail to be cloned, and another try gets it back."""
    repository = make_repository(clone_status=CloneStatus.FAILED, error_code="sandbox_missing", error_message="Gone.")

    body = status_of(api, repository)

    assert body["progress_message"] == "The clone is no longer on the disk; clone again to get it back"
    assert (body["retryable"], body["sandbox_path"]) == (True, None)


def test_cancelled_clone_says_so(api: APIClient, make_repository: MakeRepository) -> None:
    """A cancelled clone is no failure of anybody."""
    repository = make_repository(clone_status=CloneStatus.FAILED, error_code="cancelled", error_message="Cancelled.")

    assert status_of(api, repository)["progress_message"] == "The clone was cancelled"


def test_latest_job_is_the_one_that_is_told(api: APIClient, make_repository: MakeRepository) -> None:
    """After a second call to clone, the status is that of the second job."""
    repository = make_repository()
    old = timezone.now() - timedelta(days=1)
    Job.objects.create(repository=repository, state=JobState.FAILED, attempt=4, created_at=old)
    job = Job.objects.create(repository=repository)

    body = status_of(api, repository)

    assert (body["task_id"], body["attempt"]) == (str(job.pk), 0)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (JobState.QUEUED, "Repository successfully cloned, to be cloned again. Waiting for a worker"),
        (JobState.RUNNING, "Repository successfully cloned, now being cloned again. Starting to clone"),
        (
            JobState.FAILED,
            "Repository successfully cloned; cloning it again failed, so the earlier clone stays. The host is away.",
        ),
        (JobState.SUCCEEDED, "Repository successfully cloned"),
        (JobState.CANCELLED, "Repository successfully cloned"),
    ],
)
def test_complete_repository_tells_of_its_update(
    api: APIClient, make_repository: MakeRepository, state: str, sentence: str
) -> None:
    """What can be read stays COMPLETED, and the sentence says what became of the attempt to clone it again."""
    repository = make_repository(clone_status=CloneStatus.COMPLETED)
    Job.objects.create(repository=repository, kind=JobKind.UPDATE, state=state, error_message="The host is away.")

    body = status_of(api, repository)

    assert (body["clone_status"], body["progress_message"]) == ("COMPLETED", sentence)


@pytest.mark.parametrize("status", CloneStatus.values)
@pytest.mark.parametrize("state", JobState.values)
@pytest.mark.parametrize("kind", [JobKind.CLONE, JobKind.UPDATE])
def test_it_costs_few_queries(
    developer: User,
    make_repository: MakeRepository,
    django_assert_num_queries: DjangoAssertNumQueries,
    status: str,
    state: str,
    kind: str,
) -> None:
    """One for all that is shown, one for the place in the queue, and one for the machines that have yet to clean."""
    repository = make_repository(clone_status=status)
    Job.objects.create(repository=repository, kind=kind, state=state, progress={"phase": "receiving"})
    api = APIClient()
    api.force_authenticate(developer)

    with django_assert_num_queries(1 + (state == JobState.QUEUED) + (status == CloneStatus.CLEANING)):
        status_of(api, repository)


@pytest.mark.parametrize("status", CloneStatus.values)
@pytest.mark.parametrize("state", JobState.values)
@pytest.mark.parametrize("kind", JobKind.values)
def test_plain_rows_say_what_objects_say(
    project: Project, developer: User, make_repository: MakeRepository, status: str, state: str, kind: str
) -> None:
    """What is read for a program that asks all the time is what Django's objects of the same rows hold."""
    repository = make_repository(
        clone_status=status,
        repository_size_mb=Decimal("28.40"),
        estimated_size_mb=Decimal("31.25"),
        sandbox_path="/r",
        stored_pack=uuid.uuid4(),
        error_code="remote_timeout",
        error_message="Too slow: 100 %s.",
        token_accepted=True,
        token_expires_at=datetime(2040, 1, 15, 10, 30, 1, tzinfo=UTC),
    )
    older = make_repository()
    Job.objects.create(repository=older, created_at=timezone.now() - timedelta(hours=1))
    job = Job.objects.create(
        repository=repository,
        kind=kind,
        state=state,
        attempt=2,
        error_message="Because.",
        needed_bytes=5 * 10**9,
        heartbeat_at=datetime(2024, 1, 15, 10, 30, 0, 123456, tzinfo=UTC),
        progress={"phase": "receiving", "received_bytes": 5, "objects": 1, "total_objects": 3},
    )
    times = [None] if state != JobState.QUEUED else [None, timezone.now(), timezone.now() + timedelta(hours=1)]

    for next_attempt_at in times:
        Job.objects.filter(pk=job.pk).update(next_attempt_at=next_attempt_at)
        plain, of_objects = find_status(repository.pk, visible_to=developer), services.status_of(repository)
        waits = next_attempt_at is not None and next_attempt_at > timezone.now()
        expected_job, expected_repository = Job.objects.get(pk=job.pk), CodeRepository.objects.get(pk=repository.pk)

        bodies = [status_body(one) for one in (plain, of_objects)]
        for body in bodies:
            body["progress_message"] = re.sub(r"in \d+ s", "in … s", body["progress_message"])
        assert bodies[0] == bodies[1]
        assert plain.queue_position == (1 if state == JobState.QUEUED and not waits else None)
        for names, read, expected in (
            (_OF_JOB, plain.job, expected_job),
            (_OF_REPOSITORY, plain.repository, expected_repository),
        ):
            assert {name: read.__dict__[name] for name in names} == {name: getattr(expected, name) for name in names}


def test_same_body_with_and_without_a_job(api: APIClient, make_repository: MakeRepository) -> None:
    """What is read along with a job, and what is read without one, says the same of the repository."""
    values = {"clone_status": CloneStatus.COMPLETED, "token_accepted": True, "repository_size_mb": Decimal("1.5")}
    without, having = make_repository(**values), make_repository(**values)
    job = Job.objects.create(repository=having, state=JobState.SUCCEEDED)
    CodeRepository.objects.update(updated_at=datetime(2026, 1, 15, tzinfo=UTC))
    of_the_job = {"repo_id", "task_id", "max_attempts"}

    bodies = [status_of(api, one) for one in (without, having)]

    assert bodies[1]["task_id"] == str(job.pk)
    assert all(bodies[0][key] == bodies[1][key] for key in bodies[0].keys() - of_the_job)
