"""A PostgreSQL server that takes connections and answers nothing: health says so soon, and workers wait for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.integration.test_supervision import Worker, nothing_is_left_of
from tests.integration.test_web_servers import SERVERS, serving
from tests.postgres import TemporaryServer
from tests.support.cluster import ROOT, wait_until
from tests.support.processes import descendants

pytestmark = [pytest.mark.slow]

COMMAND_SECONDS = 15
"""The five of the checks, and those of the start of Django on a busy machine."""

CALLERS = 4
ANSWER_SECONDS = 5
"""The two of a request, on a busy machine."""


@pytest.fixture(scope="module")
def server() -> Iterator[TemporaryServer]:
    """A server of its own, with the tables."""
    with TemporaryServer() as started:
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment(started), check=True)
        yield started


def environment(server: TemporaryServer) -> dict[str, str]:
    """Return the environment of a process that works on it."""
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": server.url}


def test_command_names_what_hangs(server: TemporaryServer) -> None:
    """It ends although its connections never do, and tells of all that needs none."""
    with server.frozen():
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "manage.py", "coderepos_health"],
            cwd=ROOT,
            env=environment(server),
            capture_output=True,
            text=True,
            timeout=60,
        )
        took_seconds = time.monotonic() - started

    assert done.returncode == 1, done.stderr
    lines = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()}
    assert (lines["database"], lines["queue"], lines["key"]) == ("FAILING", "FAILING", "OK")
    assert took_seconds < COMMAND_SECONDS


def ask(address: str) -> tuple[int, float]:
    """Return the status of the answer, and how long it took."""
    started = time.monotonic()
    try:
        with urlopen(f"{address}/health", timeout=60) as answer:
            status = answer.status
    except HTTPError as error:
        status = error.code
    return status, time.monotonic() - started


def threads(pid: int) -> int:
    """Return how many threads there are in a process and all below it."""
    return sum(len(os.listdir(f"/proc/{one}/task")) for one in (pid, *descendants(pid)))


@pytest.mark.parametrize("name", SERVERS)
def test_web_servers_answer_soon(name: str, server: TemporaryServer, tmp_path: Path) -> None:
    """A flood of questions neither waits for the database nor fills the process with threads."""
    log = tmp_path / "web.log"
    with serving(SERVERS[name], environment(server), log) as (process, address):  # noqa: SIM117  what fails in the pool is told by the server's log
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(ask, [address] * 8))
            before = threads(process.pid)
            with server.frozen():
                time.sleep(1.1)  # what is known is fresh for a second
                answers = list(pool.map(ask, [address] * 40))
                during = threads(process.pid)

    assert {status for status, _ in answers} == {503}
    assert max(seconds for _, seconds in answers) < ANSWER_SECONDS
    # Some servers have some threads for each of the requests that wait at once; none has one for each that ever came.
    assert during < before + 20
    assert "Service Unavailable: /health" not in log.read_text()


def test_workers_wait_for_a_database_that_hangs(server: TemporaryServer, tmp_path: Path) -> None:
    """The supervisor says so, does not take it for a fault of its workers, and says that it is back."""
    with Worker(environment(server), tmp_path / "worker.log", settings={}, command=("coderepos_worker",)) as worker:
        worker.ready()
        pids = {*worker.pids()}
        with server.frozen():
            wait_until(lambda: "do not answer: waiting for them" in worker.text, seconds=40, what="a line in the log")
            assert worker.process.poll() is None
        wait_until(lambda: "are back" in worker.text, seconds=40, what="the next look")
        worker.process.send_signal(signal.SIGTERM)

        assert worker.ended(seconds=60) == 0
        nothing_is_left_of(pids)
