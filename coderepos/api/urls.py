"""The addresses of the API, without trailing slashes; a host mounts them with ``include("coderepos.api.urls")``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.db import connections, transaction
from django.urls import path
from rest_framework.serializers import Serializer

from coderepos.api.health import HealthView
from coderepos.api.serializers import ChangeSerializer
from coderepos.api.views import ConnectViewSet, RepositoryViewSet, TokenViewSet

if apps.is_installed("drf_spectacular"):
    importlib.import_module("coderepos.api.schema")


def outside_transactions(view: Callable[..., Any]) -> Callable[..., Any]:
    """Exempt a view from ``ATOMIC_REQUESTS`` of every database.

    No transaction is open while a remote answers, and what is written down about a refusal outlives it.
    """
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


app_name = "coderepos"
urlpatterns = [
    path("connect", outside_transactions(ConnectViewSet.as_view({"post": "connect"})), name="connect"),
    path("repos", RepositoryViewSet.as_view({"get": "list"}, name="Repositories"), name="repos"),
    path(
        "repos/<str:repo_id>",
        outside_transactions(
            RepositoryViewSet.as_view(
                {"get": "retrieve", "patch": "change", "delete": "disconnect"},
                name="Repository",
                serializer_class=ChangeSerializer,
            )
        ),
        name="repo",
    ),
    path(
        "repos/<str:repo_id>/status",
        RepositoryViewSet.as_view({"get": "status"}, name="Status"),
        name="repo-status",
    ),
    path(
        "repos/<str:repo_id>/clone",
        outside_transactions(
            RepositoryViewSet.as_view({"post": "clone"}, name="Clone again", serializer_class=Serializer)
        ),
        name="repo-clone",
    ),
    path(
        "repos/<str:repo_id>/cancel",
        outside_transactions(RepositoryViewSet.as_view({"post": "cancel"}, name="Cancel", serializer_class=Serializer)),
        name="repo-cancel",
    ),
    path(
        "repos/<str:repo_id>/clean",
        outside_transactions(RepositoryViewSet.as_view({"post": "clean"}, name="Clean", serializer_class=Serializer)),
        name="repo-clean",
    ),
    path("repos/<str:repo_id>/jobs", RepositoryViewSet.as_view({"get": "jobs"}, name="Jobs"), name="repo-jobs"),
    path(
        "repos/<str:repo_id>/audit",
        outside_transactions(RepositoryViewSet.as_view({"get": "audit"}, name="Audit trail")),
        name="repo-audit",
    ),
    path(
        "repos/<str:repo_id>/token",
        outside_transactions(TokenViewSet.as_view({"put": "replace"}, name="Token")),
        name="repo-token",
    ),
    path(
        "projects/<str:project_id>/repos",
        RepositoryViewSet.as_view({"get": "list_of_project"}, name="Repositories of a project"),
        name="project-repos",
    ),
    path("health", outside_transactions(HealthView.as_view()), name="health"),
]
