"""A site whose user connects repositories of Git hosts on loopback, with the real children and no worker process."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from pytest_django import Settings

from coderepos.models import ProjectMembership, Role
from coderepos.projects.models import Project
from tests.support.site import Site


@pytest.fixture
def site(db: None, settings: Settings, tmp_path: Path) -> Iterator[Site]:
    """A site with one user, who is a developer of one project."""
    cache.clear()
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(tmp_path / "repos")}
    project = Project.objects.create(name="Rocket")
    user = User.objects.create_user(f"dora-{uuid.uuid4().hex[:6]}")
    ProjectMembership.objects.create(project=project, user=user, role=Role.DEVELOPER)
    yield Site(settings, user, project)
    cache.clear()
