"""``coderepos_worker``: it ends when its workers can't work, stops as it is told, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django_q.models import Task
from django_q.tasks import async_task
from model_bakery import baker
from pytest_django import Settings

from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Job, get_project_model
from coderepos.supervision.supervisor import STALL_SECONDS
from tests.support.cluster import Cluster, heed_terminal, wait_until
from tests.support.processes import adopt_orphans, descendants

NOT_STANDING_STILL_SECONDS = STALL_SECONDS + 15


class Worker(Cluster):
    """``manage.py coderepos_worker``, with two workers, and all that it ever started."""

    def pids(self) -> list[int]:
        """Return the supervisor and everything below it."""
        return [self.process.pid, *descendants(self.process.pid)]

    @property
    def main(self) -> int:
        """The main process of the cluster, which a look at the database is not: that has no children."""
        return next(pid for pid, found in descendants(self.process.pid).items() if self._children(pid, found.parent))

    def _children(self, pid: int, parent: int) -> bool:
        return parent == self.process.pid and bool(descendants(pid))

    @property
    def sentinel(self) -> int:
        """The process below that."""
        main = self.main
        return next(pid for pid, found in descendants(main).items() if found.parent == main)

    def workers(self) -> list[int]:
        """Return the processes that said that they are ready for work, and live."""
        ready = [line.rpartition(" ")[2] for line in self.text.splitlines() if " ready for work at " in line]
        return [int(pid) for pid in ready if int(pid) in descendants(self.process.pid)]

    @property
    def text(self) -> str:
        """What it logged."""
        return self.log.read_text(errors="replace")

    def ready(self) -> None:
        """Wait until both workers, the pusher and the monitor are there."""
        wait_until(lambda: "pushing tasks" in self.text and "monitoring at" in self.text, seconds=40, what="a pusher")
        wait_until(lambda: len(self.workers()) == 2, seconds=40, what="two workers")

    def ended(self, *, seconds: float) -> int:
        """Return the exit status."""
        return self.process.wait(timeout=seconds)


@pytest.fixture
def worker(child_environment: dict[str, str], tmp_path: Path) -> Any:
    """Start a supervised cluster; whatever is left of it in the end is killed, and fails the test."""

    @contextmanager
    def start(*arguments: str, preexec_fn: Any = heed_terminal, **environment: str) -> Iterator[Worker]:
        command = ("coderepos_worker", *arguments)
        log = tmp_path / "worker.log"
        with Worker(
            {**child_environment, **environment}, log, settings={}, command=command, preexec_fn=preexec_fn
        ) as running:
            yield running
            if running.process.poll() is None:
                pids = {*running.pids()}
                running.process.send_signal(signal.SIGTERM)
                running.ended(seconds=30)
                nothing_is_left_of(pids)

    return start


def left_of(pids: set[int]) -> set[int]:
    """Return which of these processes still run; those that ended wait for their parent at most."""
    left = set()
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            if state not in "ZX":
                left.add(pid)
    return left


def nothing_is_left_of(pids: set[int]) -> None:
    """Wait for the end of all of them."""
    wait_until(lambda: not left_of(pids), seconds=20, what="the end of every process")


def make_due_job() -> Job:
    """Store a job that has been due for an hour."""
    repository = baker.make(
        CodeRepository, project=baker.make(get_project_model()), git_url="https://h/r", token_ciphertext=Secret("")
    )
    job = Job.objects.create(repository=repository)
    Job.objects.filter(pk=job.pk).update(created_at=Now() - timedelta(hours=1))
    return job


def start_sleeping(worker: Worker, seconds: float, *, tasks: int = 1) -> None:
    """Have workers do a task of the host's."""
    for _ in range(tasks):
        async_task("time.sleep", seconds)
    wait_until(lambda: worker.text.count("time.sleep") >= tasks, seconds=30, what="the start of the task")


@pytest.mark.parametrize("everybody", [pytest.param(False, marks=pytest.mark.slow), True], ids=["main", "all"])
def test_a_stop_lets_running_tasks_end(worker: Any, everybody: bool) -> None:
    """SIGTERM to the supervisor alone, or to every process at once as systemd sends it, stops without a loss."""
    with worker() as running:
        running.ready()
        start_sleeping(running, 3)
        pids = {*running.pids()}
        for pid in pids if everybody else [running.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

        assert running.ended(seconds=30) == 0
        nothing_is_left_of(pids)
    assert Task.objects.filter(func="time.sleep", success=True).count() == 1


@pytest.mark.parametrize("number", [signal.SIGHUP, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_terminal_stops_in_order(worker: Any, number: int) -> None:
    """One that is closed as well as Ctrl-C: running tasks end, and nothing is a failure."""
    with worker() as running:
        running.ready()
        start_sleeping(running, 2)
        pids = {*running.pids()}
        running.process.send_signal(number)

        assert running.ended(seconds=30) == 0
        nothing_is_left_of(pids)
    assert Task.objects.filter(func="time.sleep", success=True).count() == 1
    assert "Traceback" not in running.text


@pytest.mark.slow
def test_a_stop_has_an_end(worker: Any) -> None:
    """A task that takes longer is killed, and the log says so."""
    with worker("--stop-seconds", "1") as running:
        running.ready()
        start_sleeping(running, 600)
        pids = {*running.pids()}
        running.process.send_signal(signal.SIGTERM)

        assert running.ended(seconds=20) == 0
        nothing_is_left_of(pids)
        assert "1 tasks still run and are killed" in running.text


def test_nothing_outlives_the_supervisor(worker: Any) -> None:
    """However the supervisor ends, the kernel ends all below it, a running task too."""
    with worker() as running:
        running.ready()
        start_sleeping(running, 600)
        pids = {*running.pids()}
        running.process.kill()
        running.ended(seconds=10)

        nothing_is_left_of(pids)


@pytest.mark.slow
def test_the_first_process_of_a_container_reaps_orphans(worker: Any) -> None:
    """What a task of the host's leaves behind becomes its child, and no zombie."""
    with worker(preexec_fn=lambda: adopt_orphans(adopt=True)) as running:
        running.ready()
        async_task("subprocess.call", ["sh", "-c", "sleep 1 & echo orphan $! >&2"])
        wait_until(lambda: "orphan " in running.text, seconds=20, what="an orphan")
        orphan = int(running.text.rpartition("orphan ")[2].split()[0])
        assert descendants(running.process.pid)[orphan].parent == running.process.pid

        wait_until(lambda: orphan not in descendants(running.process.pid), seconds=20, what="its end")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "sentence"),
    [("sentinel", "its sentinel died"), ("main", "its main process was ended by SIGKILL")],
)
def test_a_cluster_that_dies_is_told_and_ends_all(worker: Any, victim: str, sentence: str) -> None:
    """The exit status is that of a failure, which django-q2's own is not."""
    with worker() as running:
        running.ready()
        pids = {*running.pids()}
        os.kill(getattr(running, victim), signal.SIGKILL)

        assert running.ended(seconds=20) == 1
        nothing_is_left_of(pids)
        assert sentence in running.text


@pytest.mark.slow
def test_a_worker_that_its_sentinel_gives_up_ends(worker: Any) -> None:
    """A SIGTERM to one worker is not a stop of the cluster: it dies, another takes its place, and work goes on."""
    with worker() as running:
        running.ready()
        start_sleeping(running, 600)
        busy = worker_at_the_task(running)
        os.kill(busy, signal.SIGTERM)

        nothing_is_left_of({busy})
        wait_until(lambda: len(running.workers()) == 2, seconds=20, what="another worker")
        async_task("time.sleep", 0)
        wait_until(lambda: Task.objects.filter(success=True).exists(), seconds=20, what="a task of the new one")


def worker_at_the_task(running: Worker) -> int:
    """Return the worker that said that it is at the task of the host's."""
    lines = running.text.splitlines()
    name = next(line.partition(" processing ")[0].split()[-1] for line in lines if "'time.sleep'" in line)
    return next(int(line.split()[-1]) for line in lines if f"{name} ready for work at " in line)


@pytest.mark.slow
def test_workers_that_are_deaf_are_ended(worker: Any) -> None:
    """Workers that are killed while they wait for a task leave a cluster that looks alive and takes no task again."""
    with worker() as running:
        running.ready()
        pids = {*running.pids()}
        for pid in running.workers():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: running.text.count("ready for work") >= 4, seconds=30, what="others in their place")
        pids |= {*running.pids()}
        job = make_due_job()

        assert running.ended(seconds=STALL_SECONDS + 45) == 1
        nothing_is_left_of(pids)
        assert "workers of this cluster are free and have begun nothing" in running.text
        assert Job.objects.get(pk=job.pk).attempt == 0


@pytest.mark.slow
def test_tasks_of_the_host_are_no_standstill(worker: Any) -> None:
    """While all workers are busy, due jobs wait, and that is no reason to end them."""
    with worker("--stop-seconds", "1") as running:
        running.ready()
        start_sleeping(running, 600, tasks=2)
        make_due_job()
        deadline = time.monotonic() + NOT_STANDING_STILL_SECONDS
        while time.monotonic() < deadline:
            assert running.process.poll() is None
            time.sleep(0.5)


def test_a_database_that_is_not_there_is_waited_for(worker: Any, tmp_path: Path) -> None:
    """It says so once, starts no cluster that would die, and can be stopped."""
    with worker(DATABASE_URL=f"sqlite:///{tmp_path}/empty.sqlite3") as running:
        wait_until(lambda: "do not answer: waiting for them" in running.text, seconds=30, what="a line in the log")
        assert "starting" not in running.text
        running.process.send_signal(signal.SIGTERM)

        assert running.ended(seconds=20) == 0


EARLY = """
from django.apps import AppConfig
from django.db import connection

class Early(AppConfig):
    name = "early"

    def ready(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
"""
"""An app of a host that asks the database while Django starts."""


def test_no_connection_is_shared_with_the_cluster(worker: Any, tmp_path: Path) -> None:
    """Whatever apps of the host did while Django started, the supervisor goes on to see the database."""
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "__init__.py").touch()
    (tmp_path / "early" / "apps.py").write_text(EARLY)
    (tmp_path / "early_settings.py").write_text(
        "from tests.settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'early']\n"
    )
    with worker(DJANGO_SETTINGS_MODULE="early_settings", PYTHONPATH=f"{tmp_path}:{os.getcwd()}") as running:
        running.ready()

        if os.geteuid() != 0:
            pytest.skip("only root may look into the supervisor")
        opened = {os.readlink(link) for link in Path(f"/proc/{running.process.pid}/fd").iterdir()}
        assert not [name for name in opened if name.startswith("socket:") or "sqlite" in name]


def test_queues_with_workers_of_their_own_are_refused(settings: Settings) -> None:
    """The command says how they are started instead."""
    settings.CODEREPOS = {**settings.CODEREPOS, "QUEUE_CLUSTER": "code"}

    with pytest.raises(CommandError, match="Q_CLUSTER_NAME=code"):
        call_command("coderepos_worker")
