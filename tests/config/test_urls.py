"""What the host project answers besides the API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.test import Client, override_settings
from model_bakery import baker
from pytest_django import DjangoAssertNumQueries

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Job, JobState, Node, get_project_model


@pytest.mark.django_db
def test_health_is_200_when_a_worker_was_seen(
    client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """One query answers for the database and the worker."""
    Node.objects.create(name="worker-1")

    with django_assert_num_queries(1):
        answer = client.get("/health")

    assert answer.status_code == 200
    assert answer.json() == {"database": "ok", "worker": "ok"}
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.django_db
def test_health_is_503_when_no_worker_was_seen_lately(client: Client) -> None:
    """A dead worker and a dead database can be told apart."""
    answer = client.get("/health")

    assert answer.status_code == 503
    assert answer.json() == {"database": "ok", "worker": "absent"}


@pytest.mark.django_db
def test_health_is_503_while_no_worker_did_anything_yet(client: Client) -> None:
    """Workers that die at their start, again and again, register a machine and do no more."""
    services.worker.register_node()

    assert client.get("/health").json() == {"database": "ok", "worker": "absent"}

    services.worker.reap()
    assert client.get("/health").json() == {"database": "ok", "worker": "ok"}


@pytest.mark.django_db
@pytest.mark.parametrize("silence_seconds", [10, 90])
def test_health_counts_the_heartbeats_of_running_jobs(client: Client, silence_seconds: int) -> None:
    """A job with a recent heartbeat counts as much as the upkeep; one without does not."""
    make_job(state=JobState.RUNNING, heartbeat_at=Now() - timedelta(seconds=silence_seconds))

    assert client.get("/health").json()["worker"] == ("ok" if silence_seconds < 60 else "absent")


@pytest.mark.django_db
@pytest.mark.parametrize("waiting_seconds", [60, 180])
def test_health_is_503_when_due_jobs_wait_and_none_runs(client: Client, waiting_seconds: int) -> None:
    """A machine that is seen but takes no job is not healthy."""
    Node.objects.create(name="worker-1")
    job = make_job(created_at=Now() - timedelta(seconds=waiting_seconds))

    answer = client.get("/health")

    assert answer.json()["worker"] == ("ok" if waiting_seconds < 120 else "stalled")
    assert answer.status_code == (200 if waiting_seconds < 120 else 503)
    # Not due yet, by its own time.
    Job.objects.filter(pk=job.pk).update(next_attempt_at=Now() + timedelta(seconds=60))
    assert client.get("/health").status_code == 200


@pytest.mark.django_db
def test_health_is_200_while_a_backlog_is_worked_on(client: Client) -> None:
    """Jobs that wait for long are no fault of workers that are all busy."""
    make_job(created_at=Now() - timedelta(hours=1))
    make_job(state=JobState.RUNNING, heartbeat_at=Now() - timedelta(seconds=5))

    assert client.get("/health").json() == {"database": "ok", "worker": "ok"}


def make_job(**values: Any) -> Job:
    """Store a job as it would be after ``values``."""
    repository = baker.make(
        CodeRepository, project=baker.make(get_project_model()), git_url="https://h/r", token_ciphertext=Secret("")
    )
    job = Job.objects.create(repository=repository)
    Job.objects.filter(pk=job.pk).update(**values)
    return job


@pytest.mark.django_db
def test_health_is_503_when_the_database_is_gone(client: Client) -> None:
    """The answer says nothing of host names or credentials."""

    def refuse(*_: object) -> None:
        raise OperationalError("connection to db.internal failed for user coderepos")

    with connection.execute_wrapper(refuse):
        answer = client.get("/health")

    assert answer.status_code == 503
    assert answer.json() == {"database": "unreachable", "worker": "unknown"}


@override_settings(SECURE_SSL_REDIRECT=True, SECURE_REDIRECT_EXEMPT=[r"^health$"])
@pytest.mark.django_db
def test_health_needs_no_https(client: Client) -> None:
    """A load balancer asks by plain http."""
    assert client.get("/health").status_code == 503
    assert client.get("/api/docs").status_code == 301


def test_health_is_only_read(client: Client) -> None:
    """Nothing is sent to it."""
    assert client.post("/health").status_code == 405


def test_the_documentation_loads_nothing_from_elsewhere(client: Client) -> None:
    """Scripts and styles of the API's documentation come from this host: it works without the internet."""
    page = client.get("/api/docs").content.decode()

    assert "/static/drf_spectacular_sidecar/swagger-ui-dist/" in page
    assert "https://" not in page
    assert "http://" not in page


def test_the_schema_names_the_paths_of_the_app(client: Client) -> None:
    """The schema is made from the mounted API."""
    schema = client.get("/api/schema", HTTP_ACCEPT="application/json").json()

    assert "/api/v1/code/connect" in schema["paths"]
    assert "/api/v1/code/repos/{repo_id}/status" in schema["paths"]


@pytest.mark.django_db
def test_anonymous_callers_of_the_api_are_challenged(client: Client) -> None:
    """The token comes first, so that the answer is 401 and names the scheme."""
    answer = client.get("/api/v1/code/repos")

    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == "Token"


@pytest.mark.django_db
def test_the_admin_is_there(client: Client) -> None:
    """Its first page lists the app."""
    client.force_login(User.objects.create_superuser("root"))

    assert "Code repositories" in client.get("/admin/").content.decode()
