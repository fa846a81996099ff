"""Exceptions that come between any two lines: a handler's, and those that a queue raises in its threads."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from coderepos.git.process import spawner
from coderepos.git.process.signal_mask import signals_blocked
from tests.git.process.test_spawner import running_server
from tests.support.users import forked

pytestmark = pytest.mark.usefixtures("no_children_left")

SECONDS = 2.0


class QueueTimeout(BaseException):
    """What a queue raises from its alarm signal."""


def interrupted(call: Callable[[], object], is_whole: Callable[[], bool]) -> bool:
    """Call over and over while alarms raise; return whether all was well after each of them."""

    def ring(number: int, frame: object) -> None:
        raise QueueTimeout

    signal.signal(signal.SIGALRM, ring)
    deadline, round_ = time.monotonic() + SECONDS, 0
    while time.monotonic() < deadline and is_whole():
        round_ += 1
        with suppress(QueueTimeout):
            signal.setitimer(signal.ITIMER_REAL, 0.0002 + round_ % 97 * 1e-6)
            while True:
                call()
    return is_whole()


def test_no_alarm_leaves_signals_blocked() -> None:
    """Nor one that arrives just before they are: then this process could no longer be stopped."""

    def block() -> None:
        with signals_blocked():
            pass

    def attempt() -> bool:
        return interrupted(block, lambda: not signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    assert forked(attempt)


def test_no_exception_keeps_the_turn_of_a_thread() -> None:
    """Signals that one thread blocks come to another one, and their handlers run in the first all the same."""

    def reap() -> None:
        with signals_blocked():
            spawner.reap()

    def attempt() -> bool:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        return interrupted(reap, lambda: signal.pthread_sigmask(signal.SIG_SETMASK, ()) is not None and spawner.reap())

    assert forked(attempt)


def test_no_exception_keeps_a_fork_server_that_cannot_be_asked() -> None:
    """At whichever line the end of a fork server is interrupted, the next child has another one."""

    def interrupt(stop: int) -> bool:
        lines = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal lines
            if frame.f_code.co_name != "dismiss":
                return None
            lines += event == "line"
            if event == "line" and lines == stop:
                raise QueueTimeout
            return trace

        sys.settrace(trace)
        try:
            spawner._registry.dismiss()
        except QueueTimeout:
            return True
        finally:
            sys.settrace(None)
        return False

    def attempt() -> int:
        stop = 1
        while running_server() and interrupt(stop):
            stop += 1
        return stop

    assert forked(attempt) > 3


def test_another_thread_is_kept_out() -> None:
    """Whoever comes while another one has its turn is told to come again."""
    assert spawner._in_turn(lambda _: spawner._in_turn(lambda _: 1, otherwise=2), otherwise=3) == 2
    assert spawner._in_turn(lambda _: os.getpid(), otherwise=0)
