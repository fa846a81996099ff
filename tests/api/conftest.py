"""A project, people of every role in it, and repositories in any state."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from rest_framework.test import APIClient

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Job, ProjectMembership, Role
from coderepos.projects.models import Project
from coderepos.services import Connection

TOKEN = "ghp_NobodyMayEverReadThis0123456789abcd"
ADDRESS = "/api/v1/code"


def connect(api: APIClient, body: object) -> Any:
    """Post ``body`` as JSON, lone surrogates included, and return the answer."""
    return api.post(f"{ADDRESS}/connect", json.dumps(body), content_type="application/json")


MakeRepository = Callable[..., CodeRepository]
ClientOf = Callable[[User | None], APIClient]


@pytest.fixture(autouse=True)
def _fresh_throttles() -> Iterator[None]:
    """Let no test spend the quota of another."""
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def project(db: None) -> Project:
    """A project."""
    return Project.objects.create(name="Rocket")


@pytest.fixture
def other_project(db: None) -> Project:
    """A project in which nobody of ours is a member."""
    return Project.objects.create(name="Submarine")


def _member(project: Project, role: Role) -> User:
    user = User.objects.create_user(f"{role}-{uuid.uuid4().hex[:6]}")
    ProjectMembership.objects.create(project=project, user=user, role=role)
    return user


@pytest.fixture
def viewer(project: Project) -> User:
    """Who may look."""
    return _member(project, Role.VIEWER)


@pytest.fixture
def developer(project: Project) -> User:
    """Who may connect and clone."""
    return _member(project, Role.DEVELOPER)


@pytest.fixture
def client_of() -> ClientOf:
    """Return a client of the API that is logged in as somebody, or as nobody."""

    def make(user: User | None) -> APIClient:
        client = APIClient()
        if user is not None:
            client.force_login(user)
        return client

    return make


@pytest.fixture
def api(client_of: ClientOf, developer: User) -> APIClient:
    """A client of the API that is logged in as a developer."""
    return client_of(developer)


@pytest.fixture
def make_repository(project: Project) -> MakeRepository:
    """Return a maker of repositories with a token, in any state."""

    def make(**values: Any) -> CodeRepository:
        name = uuid.uuid4().hex[:8]
        values = {
            "project": project,
            "git_url": f"https://github.com/owner/{name}.git",
            "url_key": f"https://github.com/owner/{name}",
            "platform": "github",
            "token_ciphertext": Secret(TOKEN),
            **values,
        }
        return CodeRepository.objects.create(**values)

    return make


@pytest.fixture
def repository(make_repository: MakeRepository) -> CodeRepository:
    """A repository that waits for its clone."""
    return make_repository()


@pytest.fixture
def connect_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand in for the service that asks the remote; returns what it was called with."""
    calls: list[dict[str, Any]] = []

    def connect_repository(**arguments: Any) -> Connection:
        calls.append(arguments)
        repository = CodeRepository(
            git_url=arguments["git_url"],
            estimated_size_mb="25.60",
            created_at=datetime(2024, 1, 15, 10, 30, 0, 123456, tzinfo=UTC),
        )
        return Connection(repository=repository, job=Job(repository=repository))

    monkeypatch.setattr(services, "connect_repository", connect_repository)
    return calls


@pytest.fixture
def body(project: Project) -> dict[str, Any]:
    """A good body of a connect call."""
    return {
        "git_url": "https://github.com/user/repo.git",
        "access_token": TOKEN,
        "project_id": str(project.pk),
    }
