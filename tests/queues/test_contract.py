"""What every queue has to do for the app, with its real workers: at most notify, at least harm nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import wait_until
from tests.support.git import git, make_repository
from tests.support.queue_hosts import (
    TOKEN,
    CeleryHost,
    CelerySoloHost,
    CeleryThreadsHost,
    QueueHost,
    RedisQueueHost,
    TasksHost,
)
from tests.support.servers.git_http_backend import GitServer
from tests.support.servers.redis import RedisServer

TEN_TIMES = "for _ in range(10): queues.current().enqueue('run_job', job.pk)\n"
ROLLED_BACK = """
from django.db import transaction
before = queues.current().facts().waiting
with transaction.atomic():
    queues.enqueue(job)
    transaction.set_rollback(True)
assert queues.current().facts().waiting == before
"""
NO_DJANGO_Q = "import sys; assert not [name for name in sys.modules if name.partition('.')[0] == 'django_q']\n"


@pytest.fixture
def git_server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server with one repository that wants the token."""
    source = make_repository(tmp_path / "source")
    (tmp_path / "served").mkdir()
    git("clone", "-q", "--bare", str(source), str(tmp_path / "served/code.git"), cwd=tmp_path)
    with GitServer(tmp_path / "served", credentials=("git", TOKEN)) as server:
        yield server


@pytest.fixture(
    params=[
        TasksHost,
        CeleryHost,
        pytest.param(QueueHost, marks=pytest.mark.slow),
        pytest.param(RedisQueueHost, marks=pytest.mark.slow),
    ]
)
def host(request: pytest.FixtureRequest, tmp_path: Path, git_server: GitServer) -> Iterator[QueueHost]:
    """One host after the other."""
    if not issubclass(request.param, RedisQueueHost):
        yield request.param(tmp_path / "host", git_server)
        return
    with RedisServer() as redis:
        made = request.param(tmp_path / "host", git_server)
        made.redis = redis
        yield made


def test_notifications_are_sent_after_the_commit_and_many_are_one(host: QueueHost) -> None:
    """Of a transaction that is rolled back nothing is sent; a job that is notified of ten times runs once."""
    host.prepare()
    own = "" if "django_q" in host.settings else NO_DJANGO_Q
    job = host.connect(ROLLED_BACK + TEN_TIMES + own)["job"]

    with host.workers():
        wait_until(lambda: host.job(job)[0] == "SUCCEEDED", seconds=60, what="the clone")
        wait_until(lambda: host.waiting() == 0, seconds=30, what="the end of the other notifications")
        assert host.job(job) == ("SUCCEEDED", 1)


@pytest.mark.slow
def test_queue_that_breaks_and_workers_that_die(host: QueueHost, git_server: GitServer) -> None:
    """A broker that is away fails no call, what it lost is made up for, and a job outlives its worker."""
    host.prepare()
    with host.broken():
        lost = host.connect()
        assert lost["seconds"] < 15

    git_server.bytes_per_second = 20
    with host.workers() as workers:
        wait_until(lambda: host.job(lost["job"]) == ("RUNNING", 1), seconds=60, what="a clone without a notification")
        kill_session(workers)
    git_server.bytes_per_second = None
    host.write("UPDATE code_repo_jobs SET lease_until = '2000-01-01 00:00:00' WHERE id = ?", lost["job"])

    with host.workers():
        wait_until(lambda: host.job(lost["job"]) == ("SUCCEEDED", 2), seconds=90, what="the second attempt")


@pytest.mark.slow
def test_maintenance_is_all_the_upkeep_that_is_needed(host: QueueHost) -> None:
    """Workers that do nothing beside their tasks get a lost notification from a cron."""
    host.prepare()
    with host.broken():
        lost = host.connect()["job"]
    host.host.manage("coderepos_maintain", "--once")

    assert host.waiting() >= 1
    with host.workers():
        wait_until(lambda: host.job(lost)[0] == "SUCCEEDED", seconds=60, what="the clone")

    assert "1 sandboxes removed" in host.host.manage("coderepos_uninstall", "--noinput")


@pytest.mark.slow
@pytest.mark.parametrize("host", [CeleryThreadsHost, CelerySoloHost], indirect=True)
def test_other_pools_of_celery(host: QueueHost) -> None:
    """A worker without processes of its own clones too, and does the upkeep that a lost notification needs."""
    host.prepare()
    with host.broken():
        lost = host.connect()["job"]

    with host.workers():
        wait_until(lambda: host.job(lost)[0] == "SUCCEEDED", seconds=90, what="the clone")


@pytest.mark.slow
@pytest.mark.parametrize("host", [CeleryHost, RedisQueueHost], indirect=True)
def test_broker_that_hangs_fails_no_call(host: RedisQueueHost) -> None:
    """A broker that takes connections and never answers delays a call by some seconds, and is not reachable."""
    host.prepare()
    host.redis.freeze()

    answer = host.connect(
        "try:\n    queues.current().facts()\nexcept Exception:\n    pass\nelse:\n    raise SystemExit(1)\n"
    )

    assert answer["seconds"] < 20
    assert host.job(answer["job"]) == ("QUEUED", 0)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that is in its session at once, as a power cut would."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == process.pid:
                    os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                continue
    process.wait(timeout=10)
