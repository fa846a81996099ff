"""``coderepos_maintain`` alone keeps the queue up, however many of them run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.db.models import Q
from django.db.models.functions import Now
from django_q.models import OrmQ
from model_bakery import baker

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Job, JobState, Node, NodeState, Purge, get_project_model
from tests.support.cluster import ROOT, Cluster, wait_until
from tests.support.database import connection

pytestmark = pytest.mark.django_db(transaction=True)


def test_cron_takes_back_what_a_dead_worker_held(child_environment: dict[str, str]) -> None:
    """One call expires the lease, has a worker notified, sweeps, and shows that the machine lives, without a word."""
    repository = baker.make(
        CodeRepository, project=baker.make(get_project_model()), git_url="https://h/r", token_ciphertext=Secret("")
    )
    held = Job.objects.create(repository=repository)
    assert Job.objects.claim(held.pk, node="dead")
    Job.objects.update(lease_until=Now() - timedelta(seconds=1), next_attempt_at=None)
    OrmQ.objects.all().delete()

    command = [sys.executable, "manage.py", "coderepos_maintain", "--once"]
    done = subprocess.run(command, env=child_environment, cwd=ROOT, capture_output=True, timeout=60, check=True)

    held.refresh_from_db()
    assert held.state == JobState.QUEUED
    assert OrmQ.objects.exists()
    node = Node.objects.get()
    assert node.last_seen is not None
    assert node.swept_at is not None
    assert done.stdout == b""


@pytest.mark.parametrize("command", [["coderepos_maintain"], ["coderepos_drain", "here", "--wait"]])
def test_ctrl_c_is_no_error(child_environment: dict[str, str], command: list[str], tmp_path: Path) -> None:
    """Not a word, and the status that a shell knows it by."""
    Node.objects.create(name="here")
    Purge.objects.request(uuid.uuid4(), project_key="p", nodes=["here"])
    log = tmp_path / "log"
    with Cluster(child_environment, log, settings={}, command=command) as running:
        nodes = Node.objects.filter(Q(upkeep_at__isnull=False) | Q(state=NodeState.DRAINING))
        wait_until(nodes.exists, seconds=60, what="its work")
        running.process.send_signal(signal.SIGINT)

        assert running.process.wait(timeout=60) == 130
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("name", [name for name, app in get_commands().items() if app == "coderepos"])
def test_no_command_shows_a_traceback_after_ctrl_c(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever it is, the process ends as after any interruption."""

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def leave(status: int) -> None:
        raise SystemExit(status)

    command = load_command_class("coderepos", name)
    monkeypatch.setattr(type(command), "handle", interrupt)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as ended:
        command.run_from_argv(["manage.py", name])
    assert ended.value.code == 130


def test_ten_at_once_are_one() -> None:
    """Of many crons at the same minute one does the round and one the sweep."""
    services.worker.register_node()
    done: list[str] = []
    start = threading.Barrier(10)

    def maintain() -> None:
        try:
            start.wait()
            done.append(services.worker.maintain())
        finally:
            connection.close()

    threads = [threading.Thread(target=maintain) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(done) == 10
    assert sum(one.startswith("a round") for one in done) == 1
    assert sum(one.endswith("swept lately") for one in done) == 9


@pytest.mark.parametrize("arguments", [["--every", "9"], ["--every", "nan"], ["--for", "0"], ["--for", "nan"]])
def test_times_that_make_no_sense(arguments: list[str]) -> None:
    """A round more often than workers do it, or for no time, is refused."""
    with pytest.raises(CommandError, match=r"must be a number from (10|1) to .* \(seconds\)"):
        call_command("coderepos_maintain", *arguments)
