"""A clone of a server that drips is cancelled, cloned, cleaned and deleted: each time nothing of it stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User

from coderepos import services
from coderepos.models import CodeRepository, Job, JobState, Purge
from coderepos.projects.models import Project
from tests.integration.conftest import ACCESS_TOKEN, StartCluster
from tests.integration.test_killed import clones_of, is_alive
from tests.support.api_client import Api
from tests.support.cluster import wait_until
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer

CANCEL_SECONDS = 2
BUSY_MACHINE_SECONDS = 8
"""What a machine whose processors are taken may add to it."""


def test_cancelled_clone(
    api: Api,
    user: User,
    project: Project,
    git_root: Path,
    git_server: GitServer,
    code_settings: Callable[..., dict[str, Any]],
    start_cluster: StartCluster,
    record_property: Callable[[str, object], None],
) -> None:
    """The children end, what they built goes, the worker lives on, and a new clone works."""
    source = make_repository(git_root / "source")
    (source / "noise").write_bytes(os.urandom(1_000_000))
    git("add", "-A", cwd=source)
    git("commit", "--quiet", "-m", "noise", cwd=source)
    values = code_settings(git_server)
    body = {"git_url": git_server.url("source"), "access_token": ACCESS_TOKEN, "project_id": str(project.pk)}
    repo_id = api.post("/connect", body).body["repo_id"]
    sandbox = Path(values["SANDBOX_BASE_PATH"], str(project.pk), repo_id)
    git_server.bytes_per_second = 20_000

    with start_cluster(values) as cluster:
        wait_until(lambda: Job.objects.filter(bytes_received__gt=0).exists(), seconds=30, what="the first bytes")
        ((worker, children),) = clones_of(cluster).items()
        began = time.monotonic()

        answer = api.post(f"/repos/{repo_id}/cancel", {})

        wait_until(
            lambda: not any(map(is_alive, children)) and not any(path.is_file() for path in sandbox.rglob("*")),
            seconds=CANCEL_SECONDS + BUSY_MACHINE_SECONDS,
            what="the end of the clone",
        )
        latency_seconds = time.monotonic() - began
        record_property("cancel latency in seconds", round(latency_seconds, 2))
        print(f"cancel latency: {latency_seconds:.2f} s")
        assert (answer.status, answer.body["clone_status"]) == (202, "FAILED")
        assert Job.objects.get(pk=answer.body["task_id"]).state == JobState.CANCELLED
        assert not list(sandbox.glob(".incoming-*"))
        git_server.bytes_per_second = None
        assert api.post(f"/repos/{repo_id}/clone", {}).status == 202
        assert api.wait_for(repo_id, "COMPLETED", "FAILED")["clone_status"] == "COMPLETED"
        assert is_alive(worker)


@pytest.mark.slow
def test_cleaned_and_deleted_clone(
    api: Api,
    user: User,
    project: Project,
    git_root: Path,
    git_server: GitServer,
    code_settings: Callable[..., dict[str, Any]],
    start_cluster: StartCluster,
) -> None:
    """The upkeep of the cluster removes every byte, and after a deletion every directory."""
    make_repository(git_root / "source")
    values = code_settings(git_server)
    body = {"git_url": git_server.url("source"), "access_token": ACCESS_TOKEN, "project_id": str(project.pk)}
    repo_id = api.post("/connect", body).body["repo_id"]
    sandbox = Path(values["SANDBOX_BASE_PATH"], str(project.pk), repo_id)
    root = User.objects.create_superuser("root")

    with start_cluster(values):
        api.wait_for(repo_id, "COMPLETED")
        repository = services.clean_repository(user=root, repository=CodeRepository.objects.get(pk=repo_id))
        api.wait_for(repo_id, "CLEANED")
        assert not any(path.is_file() for path in sandbox.rglob("*"))
        services.disconnect_repository(user=root, repository=repository)
        wait_until(lambda: not sandbox.exists(), seconds=40, what="the end of the sandbox")
        wait_until(lambda: not Purge.objects.exists(), seconds=40, what="the confirmation")
