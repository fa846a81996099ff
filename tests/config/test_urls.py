"""What the host project answers besides the API."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client, override_settings


@override_settings(SECURE_SSL_REDIRECT=True, SECURE_REDIRECT_EXEMPT=settings.SECURE_REDIRECT_EXEMPT)
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("address", ["/health", "/api/v1/code/health"])
def test_health_needs_no_https(client: Client, address: str) -> None:
    """A load balancer asks by plain http, at the root too."""
    assert client.get(address).json() == {"status": "failing"}
    assert client.get("/api/docs").status_code == 301


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
