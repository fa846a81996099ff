"""Upkeep runs beside the work, once per machine and round, and nothing that it meets ends a worker."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.db.models.functions import Now
from django_q.signals import post_spawn
from model_bakery import baker

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.exceptions import SandboxRefused
from coderepos.models import CodeRepository, Job, JobState, Node, get_project_model
from coderepos.queues import django_q
from coderepos.services.disk import this_machine
from coderepos.services.rounds import upkeep_thread
from tests.support.database import ALIAS, connection

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def job() -> Job:
    """A queued clone."""
    repository = baker.make(
        CodeRepository, project=baker.make(get_project_model()), git_url="https://h/r", token_ciphertext=Secret("")
    )
    return Job.objects.create(repository=repository)


def test_one_process_does_a_round() -> None:
    """Of many workers that wake at once one does it; the others learn when the next is due."""
    done: list[Node | None] = []
    start = threading.Barrier(6)

    def wake() -> None:
        try:
            start.wait()
            done.append(upkeep_thread.run_round())
        finally:
            connection.close()

    in_threads(wake, 6)

    assert len([node for node in done if node]) == 1
    node = services.worker.register_node()
    assert 0 <= node.upkeep_age_seconds() < upkeep_thread.ROUND_SECONDS
    Node.objects.update(upkeep_at=Now() - timedelta(seconds=upkeep_thread.ROUND_SECONDS))
    assert upkeep_thread.run_round() == node


def test_one_process_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that was begun lately is not begun again, neither by another worker nor by the schedule."""
    swept: list[None] = []

    def sweep() -> str:
        swept.append(None)
        return "0 removed"

    monkeypatch.setattr(this_machine, "sweep", sweep)
    node = services.worker.register_node()

    assert [services.worker.sweep_if_due(node) for _ in range(3)] == ["0 removed", "swept lately", "swept lately"]
    assert len(swept) == 1


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), SandboxRefused(), RuntimeError("x")])
def test_whatever_a_start_hook_raises_is_logged(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue calls the hook in every worker that starts, and would let it die of an error."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(services.worker, "start_worker", fail)
    monkeypatch.setattr(django_q, "parent_process", lambda: "the guard of the cluster")

    post_spawn.send(sender="django_q", proc_name="worker")

    assert "started without its upkeep" in caplog.text


def test_failing_round_and_failing_sweep_end_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread goes on after an error of the database or the disk."""
    rounds: list[None] = []

    def fail() -> None:
        rounds.append(None)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(upkeep_thread, "run_round", fail)
    monkeypatch.setattr(upkeep_thread, "_sleep", stop_after(3))

    with pytest.raises(Stop):
        upkeep_thread.run_rounds()

    assert len(rounds) == 3
    assert "No space left" in caplog.text
    monkeypatch.setattr(this_machine, "sweep", fail)
    upkeep_thread._run_sweep()


def test_threads_of_upkeep_take_no_signals() -> None:
    """A queue's time-out is for the main thread, which may hold signals back at that moment."""
    masks: list[set[int | signal.Signals]] = []
    done = threading.Event()

    def look() -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        done.set()

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    upkeep_thread._start_thread(look, "look")

    assert done.wait(10)
    assert {signal.SIGALRM, signal.SIGTERM, signal.SIGINT} <= masks[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_signal_that_arrives_at_the_start_of_a_thread_leaves_none_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A handler may raise as soon as the mask is set, before the caller knows what to set it back to."""
    real, before = signal.pthread_sigmask, signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def interrupted(how: int, mask: Any) -> Any:
        result = real(how, mask)
        if threading.current_thread() is threading.main_thread():
            raise TimeoutError("a handler of the queue's")
        return result

    monkeypatch.setattr(signal, "pthread_sigmask", interrupted)
    try:
        with suppress(TimeoutError):
            upkeep_thread._start_thread(lambda: None, "look")
        left = real(signal.SIG_BLOCK, ())
    finally:
        real(signal.SIG_SETMASK, before)

    assert left == before


@pytest.fixture
def frozen_holder(job: Job) -> Iterator[threading.Event]:
    """Somebody who holds the row of a job and does not come back; set the event to let go."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic(using=ALIAS):
                list(Job.objects.select_for_update().filter(pk=job.pk))
                held.set()
                release.wait(30)
        finally:
            connection.close()

    thread = threading.Thread(target=hold)
    Job.objects.claim(job.pk, node="frozen")
    Job.objects.update(lease_until=Now() - timedelta(seconds=1))
    thread.start()
    held.wait(10)
    yield release
    release.set()
    thread.join()


def test_nobody_waits_for_a_row_that_somebody_holds(job: Job, frozen_holder: threading.Event) -> None:
    """Neither the reaper nor a claim hangs on a frozen process; both get the job once it lets go."""
    if connection.vendor == "postgresql":  # SQLite locks the whole database, for all writers
        began = time.monotonic()
        services.worker.reap()
        assert Job.objects.claim(job.pk, node="other") is None
        assert time.monotonic() - began < 2

    assert Job.objects.get(pk=job.pk).state == JobState.RUNNING
    frozen_holder.set()
    time.sleep(0.5)
    services.worker.reap()
    assert Job.objects.get(pk=job.pk).state == JobState.QUEUED


def in_threads(target: Callable[[], None], count: int) -> None:
    """Run a function in many threads at once, to its end."""
    threads = [threading.Thread(target=target) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Stop(BaseException):
    """Ends a thread that would go on for ever."""


def stop_after(times: int) -> Callable[[float], None]:
    """Return a sleep that takes no time and ends its thread at the call after ``times``."""
    left = iter(range(times))

    def sleep(seconds: float) -> None:
        if next(left, None) is None:
            raise Stop

    return sleep


def test_rounds_that_end_wait_for_what_they_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep is claimed when it begins: one that ended with its process would not be made up for within the hour."""
    swept: list[str] = []

    def slow_sweep() -> str:
        time.sleep(1)
        swept.append("whole")
        return "0 removed"

    monkeypatch.setattr(this_machine, "sweep", slow_sweep)

    upkeep_thread.run_rounds(first_after_seconds=0, for_seconds=0.1)

    assert swept == ["whole"]
