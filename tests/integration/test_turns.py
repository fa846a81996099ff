"""A real cluster serves a stranger at once, whatever another tenant has queued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_bakery import baker

from coderepos import queues
from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Job, JobState
from coderepos.projects.models import Project
from tests.integration.conftest import ACCESS_TOKEN, StartCluster
from tests.support.cluster import wait_until
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer

FLOOD = 60
WORKERS = 2


@pytest.mark.slow
def test_stranger_is_served_before_sixty_slow_jobs_of_another_tenant(
    project: Project,
    git_root: Path,
    git_server: GitServer,
    code_settings: Callable[..., dict[str, Any]],
    start_cluster: StartCluster,
) -> None:
    """All of them were queued and notified first, and take a second each; the stranger's job is in the first round."""
    source = make_repository(git_root / "source")
    for number in range(FLOOD):
        git("branch", f"b{number}", cwd=source)
    git_server.bytes_per_second = 1_000

    def queue(owner: Project, ref: str) -> Job:
        repository = baker.make(
            CodeRepository,
            project=owner,
            git_url=git_server.url("source"),
            ref=ref,
            token_ciphertext=Secret(ACCESS_TOKEN),
            username="git",
        )
        job = Job.objects.create(repository=repository)
        queues.enqueue(job)
        return job

    values = code_settings(git_server)
    for number in range(FLOOD):
        queue(project, f"b{number}")
    stranger = queue(baker.make(Project), "main")

    with start_cluster(values):
        done = Job.objects.filter(pk=stranger.pk, state=JobState.SUCCEEDED)
        wait_until(done.exists, seconds=60, what="the stranger's clone")
        begun = Job.objects.exclude(started_at=None).order_by("started_at").values_list("pk", flat=True)
        place = 1 + list(begun).index(stranger.pk)
        left = Job.objects.filter(state=JobState.QUEUED).count()

    assert place <= 1 + WORKERS
    assert left > FLOOD / 2, "the flood was still there"
