"""A worker that is killed in the middle of a clone loses its job to another one, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now

from coderepos import services
from coderepos.models import Job, JobState
from coderepos.projects.models import Project
from tests.integration.conftest import ACCESS_TOKEN, StartCluster
from tests.support.api_client import Api
from tests.support.cluster import Cluster, fork_servers_of, forked_for, wait_until
from tests.support.git import git, make_repository
from tests.support.selection import sampled
from tests.support.servers.git_http_backend import GitServer

CodeSettings = Callable[..., dict[str, Any]]


def clones_of(cluster: Cluster) -> dict[int, list[int]]:
    """Return the processes of running clones by the worker that started them."""
    found = {}
    for pid in cluster.pids():
        if children := forked_for(pid):
            found[pid] = children
    return found


def is_alive(pid: int) -> bool:
    """Return whether a process still runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("victim", sampled(["worker", "cluster"], every=2))
def test_killed_worker(
    victim: str,
    api: Api,
    project: Project,
    git_root: Path,
    git_server: GitServer,
    code_settings: CodeSettings,
    start_cluster: StartCluster,
) -> None:
    """After SIGKILL in the middle the children die, the lease lapses, and the next attempt ends COMPLETED."""
    source = make_repository(git_root / "source")
    (source / "noise").write_bytes(os.urandom(3_000_000))
    git("add", "-A", cwd=source)
    git("commit", "--quiet", "-m", "noise", cwd=source)
    values = code_settings(git_server)
    body = api.post(
        "/connect",
        {"git_url": git_server.url("source"), "access_token": ACCESS_TOKEN, "project_id": str(project.pk)},
    ).body
    job = Job.objects.get(pk=body["task_id"])
    sandbox = Path(values["SANDBOX_BASE_PATH"], str(project.pk), body["repo_id"])
    git_server.bytes_per_second = 300_000

    with start_cluster(values) as cluster:
        wait_until(lambda: api.get(f"/repos/{body['repo_id']}/status").body["progress"], seconds=30, what="progress")
        wait_until(
            lambda: Job.objects.filter(pk=job.pk, bytes_received__gt=100_000).exists(),
            seconds=30,
            what="the first bytes",
        )
        ((worker, children),) = clones_of(cluster).items()
        assert list(sandbox.glob(".incoming-*"))
        if victim == "worker":
            os.kill(worker, signal.SIGKILL)
        else:
            cluster.kill()
        wait_until(lambda: not any(map(is_alive, children)), seconds=5, what="the end of the children")
        git_server.bytes_per_second = None

        # An hour passes, as the database sees it; the cluster may be gone, so the reaper is called from here.
        Job.objects.filter(pk=job.pk).update(lease_until=Now() - timedelta(hours=1))
        services.worker.reap()
        if victim == "worker":
            done = api.wait_for(body["repo_id"], "COMPLETED", "FAILED")
    if victim == "cluster":
        with start_cluster(values):
            done = api.wait_for(body["repo_id"], "COMPLETED", "FAILED")

    assert done["clone_status"] == "COMPLETED", done
    job.refresh_from_db()
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert not list(sandbox.glob(".incoming-*"))
    assert [one.name for one in (sandbox / "versions").iterdir()] == [str(job.lease_token)]
    assert (sandbox / "repository" / "noise").stat().st_size == 3_000_000


@pytest.mark.of_any_database
def test_killed_fork_server(
    api: Api,
    project: Project,
    git_root: Path,
    git_server: GitServer,
    code_settings: CodeSettings,
    start_cluster: StartCluster,
) -> None:
    """The attempt ends as if a child were lost; its worker starts another one, and none outlives its worker."""
    source = make_repository(git_root / "source")
    (source / "noise").write_bytes(os.urandom(3_000_000))
    git("add", "-A", cwd=source)
    git("commit", "--quiet", "-m", "noise", cwd=source)
    values = code_settings(git_server)
    body = api.post(
        "/connect",
        {"git_url": git_server.url("source"), "access_token": ACCESS_TOKEN, "project_id": str(project.pk)},
    ).body
    job = Job.objects.get(pk=body["task_id"])
    git_server.bytes_per_second = 300_000

    with start_cluster(values) as cluster:
        wait_until(
            lambda: Job.objects.filter(pk=job.pk, bytes_received__gt=100_000).exists(),
            seconds=30,
            what="the first bytes",
        )
        ((worker, children),) = clones_of(cluster).items()
        (server,) = fork_servers_of(worker)
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: Job.objects.get(pk=job.pk).state == JobState.QUEUED, seconds=30, what="another attempt")
        assert not any(map(is_alive, (server, *children)))
        assert is_alive(worker)
        assert Job.objects.get(pk=job.pk).error_code == "internal_error"
        git_server.bytes_per_second = None
        Job.objects.filter(pk=job.pk).update(next_attempt_at=Now())
        done = api.wait_for(body["repo_id"], "COMPLETED", "FAILED")
        servers = [one for pid in cluster.pids() for one in fork_servers_of(pid)]

    assert done["clone_status"] == "COMPLETED", done
    assert servers
    wait_until(lambda: not any(map(is_alive, servers)), seconds=5, what="the end of the fork servers")
