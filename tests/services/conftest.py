"""Two machines with a storage for packs, and a repository that one of them cloned and stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from coderepos.models import CodeRepository, Job
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer
from tests.support.two_machines import TwoMachines, connected


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server of one repository with tags, a link and an executable file."""
    repository = make_repository(tmp_path / "served/repository")
    (repository / "run").write_text("#!/bin/sh\n")
    (repository / "run").chmod(0o755)
    (repository / "link").symlink_to("run")
    git("add", "-A", cwd=repository)
    git("commit", "--quiet", "-m", "more", cwd=repository)
    git("tag", "light", cwd=repository)
    git("tag", "-a", "-m", "annotated", "v1", "HEAD~1", cwd=repository)
    with GitServer(tmp_path / "served") as started:
        yield started


@pytest.fixture
def machines(settings: Settings, tmp_path: Path, server: GitServer) -> TwoMachines:
    """Two machines with a shared directory."""
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
    }
    return TwoMachines(settings, tmp_path)


@pytest.fixture
def repository(server: GitServer, machines: TwoMachines) -> CodeRepository:
    """A repository that was cloned on machine a, and stored."""
    repository = connected(server)
    assert machines.work("a", Job.objects.get(repository=repository)) == "succeeded"
    assert machines.store("a") == "1 stored, 0 removed"
    repository.refresh_from_db()
    return repository
