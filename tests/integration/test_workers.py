"""Workers start whatever the disk is like, and the queue is kept up while all of them are busy."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now
from django.test import Client
from django_q.models import OrmQ

from coderepos.models import CloneStatus, CodeRepository, Job, JobState, Node
from coderepos.services.health.database import database_findings
from coderepos.services.health.finding import Level
from tests.integration.conftest import ACCESS_TOKEN, StartCluster
from tests.support.api_client import Api
from tests.support.cluster import Cluster, wait_until
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer

CodeSettings = Callable[..., dict[str, Any]]


def connect(api: Api, git_server: GitServer, project: Any, name: str) -> Job:
    """Connect a repository, and return the job of its first clone."""
    body = {"git_url": git_server.url(name), "access_token": ACCESS_TOKEN, "project_id": str(project.pk)}
    answer = api.post("/connect", body)
    assert answer.status == 201, answer.body
    return Job.objects.get(pk=answer.body["task_id"])


def health() -> str:
    """Return what a load balancer is told."""
    answer = Client().get("/health")
    assert answer.status_code in (200, 503)
    return str(answer.json()["status"])


def test_workers_live_with_a_root_that_cannot_be_used(
    api: Api,
    project: Any,
    git_root: Path,
    git_server: GitServer,
    code_settings: CodeSettings,
    start_cluster: StartCluster,
    tmp_path: Path,
) -> None:
    """A mount that is missing kills no worker: the job says what is wrong, and is tried again."""
    make_repository(git_root / "source")
    (tmp_path / "file").write_text("in the way")
    values = code_settings(git_server, SANDBOX_BASE_PATH=str(tmp_path / "file" / "repos"))
    job = connect(api, git_server, project, "source")

    with start_cluster(values) as cluster:
        wait_until(lambda: Job.objects.get(pk=job.pk).error_code, seconds=30, what="an attempt")
        # Upkeep, with its sweep of a root that is not there, has run.
        wait_until(lambda: Node.objects.filter(swept_at__isnull=False).exists(), seconds=30, what="a sweep")
        wait_until(lambda: "can't be swept" in cluster.log.read_text(), seconds=30, what="a line in the log")
        # Neither the second worker nor the end of the first round of upkeep has to come before all that.
        wait_until(lambda: cluster.log.read_text().count("ready for work") >= 2, seconds=30, what="two workers")
        wait_until(lambda: health() == "ok", seconds=30, what="a live worker")
        log = cluster.log.read_text()

    job.refresh_from_db()
    assert (job.state, job.error_code.split("_")[0]) == (JobState.QUEUED, "sandbox")
    assert "after death" not in log
    assert log.count("ready for work") == 2


@pytest.mark.slow
def test_queue_is_kept_up_while_all_workers_are_busy(
    api: Api,
    project: Any,
    git_root: Path,
    git_server: GitServer,
    code_settings: CodeSettings,
    start_cluster: StartCluster,
) -> None:
    """Upkeep does not wait behind clones: expired leases go back to the queue, and the machine counts as alive."""
    for name in ("first", "second", "third"):
        (make_repository(git_root / name) / "name").write_text(name)
    values = code_settings(git_server)
    jobs = [connect(api, git_server, project, name) for name in ("first", "second")]
    silent = connect(api, git_server, project, "third")
    assert Job.objects.claim(silent.pk, node="dead")
    git_server.bytes_per_second = 20  # nothing arrives for minutes

    with start_cluster(values):
        busy = Job.objects.filter(pk__in=[job.pk for job in jobs], state=JobState.RUNNING)
        wait_until(lambda: busy.count() == 2, seconds=30, what="two busy workers")
        Job.objects.filter(pk=silent.pk).update(lease_until=Now() - timedelta(seconds=1))

        wait_until(
            lambda: Job.objects.filter(pk=silent.pk, state=JobState.QUEUED).exists(), seconds=30, what="the reaper"
        )
        # It waits for long, behind others that run: no fault of anybody.
        Job.objects.filter(pk=silent.pk).update(next_attempt_at=Now() - timedelta(hours=1))
        # A machine is seen at the end of a round, and the silent job came back in the midst of one.
        wait_until(lambda: health() == "ok", seconds=10, what="the end of a round")
        assert busy.count() == 2
        findings = {finding.check: finding for finding in database_findings()}
        assert [name for name, one in findings.items() if one.level == Level.FAILING] == []
        assert findings["jobs"].values["oldest_due_seconds"] >= 3_600
        git_server.bytes_per_second = None


@pytest.mark.slow
def test_lost_notification_is_made_up_for_while_workers_are_idle(
    api: Api,
    project: Any,
    git_root: Path,
    git_server: GitServer,
    code_settings: CodeSettings,
    start_cluster: StartCluster,
) -> None:
    """A job whose notification died with its cluster is taken at the next round, not after django-q2's retry."""
    make_repository(git_root / "source")
    values = code_settings(git_server)
    job = connect(api, git_server, project, "source")
    OrmQ.objects.all().delete()
    Job.objects.filter(pk=job.pk).update(enqueued_at=Now())

    with start_cluster(values):
        done = Job.objects.filter(pk=job.pk, state=JobState.SUCCEEDED)
        wait_until(done.exists, seconds=40, what="the clone")

    assert CodeRepository.objects.get().clone_status == CloneStatus.COMPLETED


def test_workers_that_only_start_are_not_alive(child_environment: dict[str, str], tmp_path: Path) -> None:
    """A machine whose workers die as soon as they start was never at work, and /health says so."""
    environment = {**child_environment, "DJANGO_SETTINGS_MODULE": "tests.support.programs.crashing"}

    with Cluster(environment, tmp_path / "cluster.log", settings={}) as cluster:
        wait_until(lambda: cluster.log.read_text().count("after death") >= 5, seconds=60, what="a row of deaths")

        assert health() == "failing"
        cluster.kill()
