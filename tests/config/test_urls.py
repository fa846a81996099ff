"""What the host project answers besides the API."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test import Client, override_settings
from pytest_django import DjangoAssertNumQueries

from coderepos.models import Node


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
