"""What the supervisor makes of the words of its workers, and of their silence."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from coderepos.queues.protocol import WorkerState
from coderepos.supervision.reports import Reports, Workers

Start = Callable[..., tuple[Workers, list[int]]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Fork workers that say their words and then wait to be killed, unless the last one is ``ended``."""
    pids: list[int] = []
    made: list[Workers] = []

    def fork(*words: tuple[WorkerState, ...]) -> tuple[Workers, list[int]]:
        reports = Reports()
        for states in words:
            pid = os.fork()
            if not pid:
                send = reports.sender()
                for state in states:
                    send(state)
                if states[-1] != "ended":
                    time.sleep(60)
                os._exit(0)
            pids.append(pid)
        made.append(reports.receiver())
        return made[-1], pids

    yield fork
    for workers in made:
        workers.close()
    for pid in pids:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def listen_until(workers: Workers, condition: Callable[[], object]) -> None:
    """Listen until something is known."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        workers.listen(0.05)


def test_free_and_busy_workers_are_told_apart(start: Start) -> None:
    """The last word of each counts."""
    workers, _ = start(("free",), ("free", "busy"), ("free", "busy", "free"))

    listen_until(workers, lambda: (workers.free, workers.busy) == (2, 1))


def test_workers_that_begin_tasks_do_not_stall(start: Start) -> None:
    """Time counts while some are free, and from the last beginning of a task on."""
    workers, _ = start(("free",))
    listen_until(workers, lambda: workers.free == 1)
    listen_until(workers, lambda: workers.stalled_seconds > 0.2)
    before = workers.stalled_seconds
    workers._note(os.getpid(), "busy")

    assert workers.stalled_seconds < before


def test_busy_workers_do_not_stall(start: Start) -> None:
    """While none is free, nobody can be expected to begin."""
    workers, _ = start(("free", "busy"))
    listen_until(workers, lambda: workers.busy == 1)
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        workers.listen(0.05)
        assert workers.stalled_seconds < 0.4


@pytest.mark.parametrize(
    ("words", "died_free"),
    [(("free",), True), (("free", "busy"), False), (("free", "ended"), False)],
    ids=["free", "busy", "ended"],
)
def test_only_a_worker_that_dies_while_free_is_suspicious(
    start: Start, words: tuple[WorkerState, ...], died_free: bool
) -> None:
    """It may hold the lock of the queue for ever; one at a task does not, and one that says so ends as it should."""
    workers, pids = start(words)
    listen_until(workers, lambda: workers.all_gone or getattr(workers, words[-1], 0) == 1)
    with suppress(ProcessLookupError):
        os.kill(pids[0], signal.SIGKILL)
    os.waitpid(pids[0], 0)
    listen_until(workers, lambda: workers.all_gone)
    workers.listen(0)

    assert workers.died_free == died_free
    assert (workers.free, workers.busy) == (0, 0)


def test_a_supervisor_that_is_frozen_holds_no_worker_up(start: Start) -> None:
    """What does not fit into the pipe is dropped: a worker comes to its end though nobody listens."""
    _, (pid,) = start(("busy",) * 100_000 + ("ended",))

    deadline = time.monotonic() + 30
    while not os.waitpid(pid, os.WNOHANG)[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
