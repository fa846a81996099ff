"""A user with a token, a project, a real Git server, a real web server and a real cluster of workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from model_bakery import baker
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer
from rest_framework.authtoken.models import Token

from coderepos.crypto.redaction import RedactingFilter
from coderepos.models import ProjectMembership, Role
from coderepos.projects.models import Project
from tests.support.api_client import Api
from tests.support.cluster import Cluster
from tests.support.servers.git_http_backend import GitServer

ACCESS_TOKEN = "ghp_integrationtests0123456789abcdef"
StartCluster = Callable[..., AbstractContextManager[Cluster]]


@pytest.fixture
def git_root(tmp_path: Path) -> Path:
    """The folder whose repositories the Git server serves."""
    root = tmp_path / "remote"
    root.mkdir()
    return root


@pytest.fixture
def git_server(git_root: Path) -> Iterator[GitServer]:
    """A Git server that insists on the token, in the form of a generic host."""
    with GitServer(git_root, credentials=("git", ACCESS_TOKEN)) as server:
        yield server


@pytest.fixture
def code_settings(settings: Settings, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Change keys of ``CODEREPOS`` for this process; what it returns is for other processes."""

    def change(server: GitServer, **values: Any) -> dict[str, Any]:
        changed = {
            "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
            "PRIVATE_GIT_HOSTS": [server.host],
            "INSECURE_HTTP_HOSTS": [] if server.tls else [server.host],
            "GIT_CA_BUNDLE": server.ca_bundle,
            **values,
        }
        settings.CODEREPOS = {**settings.CODEREPOS, **changed}
        return changed

    return change


@pytest.fixture
def start_cluster(child_environment: dict[str, str], tmp_path: Path) -> StartCluster:
    """Make a cluster of workers with these keys of ``CODEREPOS``."""

    def start(settings: dict[str, Any], **popen: Any) -> Cluster:
        return Cluster(child_environment, tmp_path / "cluster.log", settings=settings, **popen)

    return start


@pytest.fixture
def project(transactional_db: None) -> Project:
    """A project of the user."""
    return baker.make(Project, name="engine")


@pytest.fixture
def user(project: Project) -> Any:
    """A user who is a developer of the project."""
    user = baker.make(get_user_model(), username="dora", is_active=True)
    baker.make(ProjectMembership, project=project, user=user, role=Role.DEVELOPER)
    return user


@pytest.fixture
def api(live_server: LiveServer, user: Any) -> Api:
    """The API, called by the user."""
    return Api(live_server.url, Token.objects.create(user=user).key)


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Path]:
    """A folder with two logs of everything that this process does: a redacted one, and one that is not."""
    folder = tmp_path / "logs"
    folder.mkdir()
    handlers = [logging.FileHandler(folder / f"web-{name}.log") for name in ("plain", "redacted")]
    handlers[1].addFilter(RedactingFilter())
    loggers = [logging.getLogger(name) for name in ("", "django", "django.db.backends", "coderepos", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(pathname)s"))
    # The plain one comes first: before Python 3.12 the filter redacts for the handlers after its own too.
    logging.getLogger().handlers[:0] = handlers
    yield folder
    for handler in handlers:
        logging.getLogger().removeHandler(handler)
        handler.close()
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
