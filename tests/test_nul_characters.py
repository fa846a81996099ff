"""A NUL character, which PostgreSQL stores and compares nowhere, is an answer like any other wrong value."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from model_bakery import baker
from rest_framework.test import APIClient

from coderepos.crypto.secret import Secret
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Job, Node
from coderepos.projects.models import Project

pytestmark = pytest.mark.django_db

NUL = "\0"
MODELS = [model for label in ("coderepos", "coderepos_projects") for model in apps.get_app_config(label).get_models()]
LISTED = [model for model in MODELS if admin.site.is_registered(model)]
LOOKUPS = ("", "__exact", "__in")


@pytest.fixture
def repository() -> CodeRepository:
    """A repository with a row of everything that belongs to one."""
    repository = CodeRepository.objects.create(
        project=baker.make(Project), git_url="https://github.com/owner/name.git", token_ciphertext=Secret("")
    )
    Job.objects.create(repository=repository)
    Node.objects.create(name="here")
    AuditEntry.objects.record(AuditEvent.CONNECTED, repository=repository)
    return repository


@pytest.mark.parametrize("model", LISTED, ids=lambda model: model.__name__)
def test_filters_of_the_admin(admin_client: Client, repository: CodeRepository, model: Any) -> None:
    """A lookup that no row can match is a bad request, whatever else of it Django would refuse or leave out."""
    address = reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_changelist")
    names = [field.name for field in model._meta.fields] + ["q", "o", "p", "all", "e", "_facets", "_to_field"]
    for lookup in (name + how for name in names for how in LOOKUPS):
        assert admin_client.get(address, {lookup: f"a,{NUL}"}).status_code == 400, lookup


@pytest.mark.parametrize("model", LISTED, ids=lambda model: model.__name__)
@pytest.mark.parametrize("page", ["change", "history", "delete"])
def test_pages_of_the_admin(admin_client: Client, repository: CodeRepository, model: Any, page: str) -> None:
    """There is no such row."""
    for key in (NUL, f"here{NUL}"):
        name = f"admin:{model._meta.label_lower.replace('.', '_')}_{page}"
        answer = admin_client.get(reverse(name, args=[quote(key)]))
        assert answer.status_code in (302, 403, 404), page


@pytest.mark.parametrize("model", LISTED, ids=lambda model: model.__name__)
def test_actions_of_the_admin(admin_client: Client, repository: CodeRepository, model: Any) -> None:
    """Nothing is done with a row that can't be there."""
    address = reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_changelist")
    for action in ("delete_selected", "clone_again", NUL):
        answer = admin_client.post(address, {"action": action, "_selected_action": [NUL], "index": "0"})
        assert answer.status_code in (200, 302, 400), action


def test_every_call_of_the_api(admin_user: User, repository: CodeRepository) -> None:
    """In a path, a query string or a body it is refused, and never an error of ours."""
    client = APIClient()
    client.force_login(admin_user)
    base = "/api/v1/code"
    good = {
        "git_url": "https://nothing.invalid/o/r",
        "project_id": str(repository.project_id),
        "access_token": "t" * 30,
    }
    one = f"{base}/repos/{repository.pk}"
    calls: list[tuple[str, str, Any]] = [
        ("post", f"{base}/connect", good | {name: value})
        for name in (*good, "ref", "username", "depth", "more")
        for value in (NUL, f"https://nothing.invalid/o{NUL}/r", [NUL], {NUL: NUL})
    ]
    calls += [("patch", one, {name: f"a{NUL}"}) for name in ("ref", "username", "depth", NUL)]
    calls += [("put", f"{one}/token", {name: f"a{NUL}"}) for name in ("access_token", "username")]
    calls += [("get", f"{base}/repos?{name}=a%00", None) for name in ("status", "platform", "search", "ordering")]
    calls += [("get", f"{base}/repos?{name}=%00", None) for name in ("project", "page", "page_size", "cursor", "%00")]
    calls += [("get", f"{base}/{path}%00", None) for path in ("repos/", f"repos/{repository.pk}/status")]
    calls += [("get", f"{base}/repos/%00/{name}", None) for name in ("status", "jobs", "audit")]
    calls += [("get", f"{base}/projects/%00/repos", None), ("get", f"{one}/audit?cursor=%00", None)]

    for method, address, body in calls:
        answer = getattr(client, method)(address, body, format="json" if body else None)
        assert answer.status_code != 500, (method, address, body)
