"""The short answer of this process, for load balancers: cheap, and bounded even where the database hangs.

A connection to a database that hangs can't be given a deadline without a change of the host's settings. So a thread
asks, and requests wait for it, but not for long. However many requests come, the database gets one question a second.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any, Final

from django.db import connections

from coderepos.models import alias
from coderepos.services.health.signs import read_signs

WAIT_SECONDS: Final = 2
"""How long a request waits for the answer to a question, counted from when that was asked."""

FRESH_SECONDS: Final = 1
"""How old a question may be whose answer is given again."""

LOST_SECONDS: Final = 20
"""After how long a question is given up, so that the next one may find a database that is back."""

MOST_LOST: Final = 4
"""Most questions that wait for a lost answer; with so many, none is asked until one of them ends."""

logger = logging.getLogger(__name__)


class _Question:
    """One question to the database, asked by a thread of its own."""

    def __init__(self) -> None:
        self.fault: str | None = "the database does not answer"
        """What is wrong, or ``None``."""

        self._asked_at: Final = time.monotonic()
        self._answered: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._ask, name="coderepos-health", daemon=True)
        self._thread.start()

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self._asked_at

    @property
    def is_answered(self) -> bool:
        return self._answered.is_set()

    def wait(self) -> None:
        self._answered.wait(max(0.0, WAIT_SECONDS - self.age_seconds))

    def _ask(self) -> None:
        try:
            self.fault = _fault()
        finally:
            self._answered.set()
            connections.close_all()


def _fault() -> str | None:
    try:
        return read_signs().fault
    except Exception as error:
        # The name alone: the text of a database may hold the names of hosts and users.
        return f"the database fails: {type(error).__name__}"


def _sees_what_others_do_not() -> bool:
    """Return whether no other thread can see the rows of this one: in a test of the host's, most of all.

    It is in a transaction, of which none is open where a server calls the view, or its database is in memory.
    """
    connection: Any = connections[alias()]
    is_in_memory = connection.vendor == "sqlite" and connection.is_in_memory_db()
    return bool(connection.in_atomic_block or is_in_memory)


class Pulse:
    """The newest question, and those that are lost."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._newest: _Question | None = None
        self._lost: list[_Question] = []
        self._told: str | None = None

    def is_healthy(self) -> bool:
        """Return whether workers are there and take what is due; false where that isn't known in time."""
        if _sees_what_others_do_not():
            fault = _fault()
            self._tell(fault)
            return fault is None
        try:
            question = self._question()
        except RuntimeError:  # no further thread
            return False
        question.wait()
        self._tell(question.fault)
        return question.fault is None

    def _tell(self, fault: str | None) -> None:
        with self._lock:
            before, self._told = self._told, fault
        if fault != before:
            logger.log(logging.ERROR if fault else logging.INFO, "Health: %s", fault or "jobs get done")

    def _question(self) -> _Question:
        with self._lock:
            if self._newest is None or self._is_over(self._newest):
                self._newest = _Question()
            return self._newest

    def _is_over(self, question: _Question) -> bool:
        if question.is_answered:
            return question.age_seconds >= FRESH_SECONDS
        self._lost = [one for one in self._lost if not one.is_answered]
        if question.age_seconds < LOST_SECONDS or len(self._lost) >= MOST_LOST:
            return False
        self._lost.append(question)
        return True


_pulse = Pulse()


def is_healthy() -> bool:
    """Return whether workers are there and take what is due; false where that isn't known within two seconds."""
    return _pulse.is_healthy()


def _forget() -> None:
    global _pulse  # its threads were left behind, and its lock may be held by one of them
    _pulse = Pulse()


os.register_at_fork(after_in_child=_forget)
