"""A worker that dies or freezes at any step of publishing: one version is published, and COMPLETED can be read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.db.models.functions import Now
from model_bakery import baker
from pytest_django import Settings

from coderepos import engine, services
from coderepos.crypto.secret import Secret
from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, JobState, get_project_model
from coderepos.services.disk import purging
from tests.support.cluster import wait_until
from tests.support.git import git, make_repository
from tests.support.programs.interrupted import STEPS
from tests.support.selection import sampled
from tests.support.servers.git_http_backend import GitServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server of one repository."""
    make_repository(tmp_path / "served/repository")
    with GitServer(tmp_path / "served") as started:
        yield started


@pytest.fixture
def overrides(server: GitServer, settings: Settings, tmp_path: Path) -> dict[str, object]:
    """Keys of ``CODEREPOS`` for this process and the one that is interrupted."""
    values: dict[str, object] = {
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
    }
    settings.CODEREPOS = {**settings.CODEREPOS, **values}
    return values


@pytest.fixture(params=[JobKind.CLONE, JobKind.UPDATE])
def job(request: pytest.FixtureRequest, overrides: dict[str, object], server: GitServer) -> Job:
    """A queued clone: the first of a repository, or another one of a repository that can be read."""
    repository = baker.make(
        CodeRepository,
        project=baker.make(get_project_model()),
        git_url=server.url("repository"),
        token_ciphertext=Secret("t" * 30),
    )
    first = Job.objects.create(repository=repository, max_attempts=3)
    if request.param == JobKind.CLONE:
        return first
    assert services.worker.run_clone(job_id=first.pk) == "succeeded"
    (server.root / "repository/file.txt").write_text("changed\n")
    git("commit", "--quiet", "-am", "changed", cwd=server.root / "repository")
    return Job.objects.create(repository=repository, kind=JobKind.UPDATE, max_attempts=3)


@pytest.fixture
def interrupted(job: Job, overrides: dict[str, object], child_environment: dict[str, str]) -> Iterator[Interrupted]:
    """The attempt that is interrupted, in a process of its own."""
    with Interrupted(job, {**child_environment, "CODEREPOS_TEST_OVERRIDES": json.dumps(overrides)}) as worker:
        yield worker


class Interrupted:
    """A worker that kills or stops itself at a step."""

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self.job = job
        self._environment = environment

    def __enter__(self) -> Interrupted:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def run_to(self, step: str, number: signal.Signals) -> None:
        """Start it, and wait until the signal has reached it."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.programs.interrupted", str(self.job.pk), step, str(int(number))],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        if os.WIFSIGNALED(status):
            self.process.returncode = -os.WTERMSIG(status)
            assert os.WTERMSIG(status) == number
        else:
            assert os.WIFSTOPPED(status), self.process.communicate()

    def go_on(self) -> str:
        """Wake it, and return what became of its attempt."""
        self.process.send_signal(signal.SIGCONT)
        output, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        return output.strip()


@pytest.mark.parametrize("step", sampled(STEPS, every=3))
def test_killed_worker(step: str, job: Job, interrupted: Interrupted) -> None:
    """The next attempt publishes, unless the dead one had; what the dead one built is gone by then."""
    interrupted.run_to(step, signal.SIGKILL)

    assert_readable(job)
    expire_lease(job)
    outcome = services.worker.run_clone(job_id=job.pk)

    done = step == "after the transaction"
    assert outcome == ("unclaimed" if done else "succeeded")
    # A version that was replaced in the last moment is for the sweep.
    assert_published(job, others_may_be_left=done)


@pytest.mark.parametrize("step", sampled(STEPS, every=3))
def test_frozen_worker_that_wakes_after_another_one_published(step: str, job: Job, interrupted: Interrupted) -> None:
    """What the sleeper does after its waking changes nothing; what it had committed stays."""
    interrupted.run_to(step, signal.SIGSTOP)
    if step == "inside the transaction" and connection.vendor == "sqlite":
        # It holds the only lock that there is: everybody waits for it.
        assert interrupted.go_on() == "succeeded"
        assert_published(job)
        return

    assert_readable(job)
    expire_lease(job)
    outcome = services.worker.run_clone(job_id=job.pk)
    assert_published(job, others_may_be_left=True)
    woken = interrupted.go_on()

    done = step == "after the transaction"
    assert (outcome, woken) == (("unclaimed", "succeeded") if done else ("succeeded", "lost"))
    assert_published(job)


@pytest.mark.parametrize("step", ["before the link", "before the transaction"])
def test_last_attempt_that_dies_is_purged(step: str, job: Job, interrupted: Interrupted) -> None:
    """Where no attempt follows, the reaper asks for a purge, which puts the link back and removes the rest."""
    Job.objects.filter(pk=job.pk).update(max_attempts=1)
    job.refresh_from_db()
    interrupted.run_to(step, signal.SIGKILL)
    expire_lease(job)
    services.worker.reap()

    assert purging.purge(services.worker.register_node()) == "1 of 1 purged"

    repository = CodeRepository.objects.get(pk=job.repository_id)
    sandbox = engine.sandbox_of(repository)
    assert Job.objects.get(pk=job.pk).error_code == "worker_lost"
    if job.kind == JobKind.UPDATE:
        assert sandbox.tokens() == {repository.version} == {sandbox.current()}
        assert_readable(job)
    else:
        assert sandbox.tokens() == set()


def expire_lease(job: Job) -> None:
    """Let the lease of a job have ended, once its row is free."""
    rows = Job.objects.filter(pk=job.pk, state=JobState.RUNNING)
    wait_until(lambda: rows.update(lease_until=Now() - timedelta(seconds=1)) or is_done(job), seconds=30, what="a lock")


def is_done(job: Job) -> bool:
    """Return whether a job is finished."""
    return Job.objects.filter(pk=job.pk, state=JobState.SUCCEEDED).exists()


def assert_readable(job: Job) -> None:
    """Where the row says COMPLETED, the path that it names can be read, now."""
    repository = CodeRepository.objects.get(pk=job.repository_id)
    if repository.clone_status == CloneStatus.COMPLETED:
        assert repository.sandbox_path
        assert Path(repository.sandbox_path, "file.txt").read_text()


def assert_published(job: Job, *, others_may_be_left: bool = False) -> None:
    """The job is done, readers see the version of the row, and it is the only one."""
    row = Job.objects.select_related("repository").get(pk=job.pk)
    sandbox = engine.sandbox_of(row.repository)
    assert (row.state, row.repository.clone_status) == (JobState.SUCCEEDED, CloneStatus.COMPLETED)
    assert sandbox.current() == row.repository.version == str(row.lease_token)
    assert_readable(job)
    if job.kind == JobKind.UPDATE:
        assert Path(str(row.repository.sandbox_path), "file.txt").read_text() == "changed\n"
    if not others_may_be_left:
        assert sandbox.tokens() == {row.repository.version}
