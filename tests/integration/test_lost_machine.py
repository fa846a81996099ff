"""Two machines with real clusters: what one published and stored, the other has after its loss, without Git host."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now
from pytest_django import Settings

from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, JobState, Node, StoredPack
from tests.integration.conftest import ACCESS_TOKEN
from tests.support.api_client import Api
from tests.support.cluster import Cluster, wait_until
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer
from tests.support.two_machines import TwoMachines


@pytest.mark.slow
def test_repository_of_a_lost_machine_is_restored_on_another(
    api: Api,
    project: Any,
    git_root: Path,
    git_server: GitServer,
    code_settings: Callable[..., dict[str, Any]],
    child_environment: dict[str, str],
    settings: Settings,
    tmp_path: Path,
) -> None:
    """By upkeep alone: nobody asks for it, the Git host is gone, and storing and deleting need no call either."""
    make_repository(git_root / "source", commits=20)
    code_settings(git_server)
    machines = TwoMachines(settings, tmp_path)
    body = {"git_url": git_server.url("source"), "access_token": ACCESS_TOKEN, "project_id": str(project.pk)}
    answer = api.post("/connect", body)
    assert answer.status == 201, answer.body
    repository = CodeRepository.objects.get()

    def cluster(name: str) -> Cluster:
        environment, values = machines.environment(name, child_environment)
        return Cluster(environment, tmp_path / f"{name}.log", settings=values)

    with cluster("a"):
        wait_until(lambda: CodeRepository.objects.filter(stored_pack__isnull=False), seconds=60, what="its storing")
    git_root.rename(tmp_path / "gone")
    Node.objects.filter(pk="a").update(last_seen=Now() - timedelta(minutes=11))

    with cluster("b"):
        restored = Job.objects.filter(kind=JobKind.RESTORE, state=JobState.SUCCEEDED, node="b")
        wait_until(restored.exists, seconds=60, what="its restore")
        repository.refresh_from_db()
        assert (repository.clone_status, repository.node) == (CloneStatus.COMPLETED, "b")
        sandbox = machines.root("b") / str(project.pk) / str(repository.pk)
        git("--git-dir", sandbox / "git", "fsck", "--full", "--strict")
        assert git("--git-dir", sandbox / "git", "rev-parse", "HEAD") == repository.commit_id

        CodeRepository.objects.get().delete()
        wait_until(lambda: not machines.stored_names(), seconds=60, what="its removal from the storage")
        wait_until(lambda: not sandbox.exists(), seconds=60, what="its removal from the disk")
    assert StoredPack.objects.get().left_at is not None
