"""Waits for the events of child processes, keeps their deadline and reports that time passes."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from coderepos.exceptions import GitError
from coderepos.git.process.child import Child
from coderepos.git.results import Progress

TICK_SECONDS: Final = 1.0
"""Longest time between two calls of ``on_progress``."""

_SHORTEST_TICK_SECONDS: Final = 0.2

_ROOM_SECONDS: Final = 0.02
"""How soon a child is asked for again that there was no room for."""


class Watchdog:
    """The waiting half of a pipeline: one call of :meth:`events` is one round.

    :param seconds: wall clock, from now on, after which ``overrun`` is raised.
    :param overrun: error of a deadline that passed.
    :param on_progress: called at least once a second, and up to five times where something moved; what it raises
        goes through.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        seconds: float,
        overrun: type[GitError],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.progress = Progress(phase="connecting")
        """The newest figures; the pipeline replaces them."""
        self._children: Final = children
        self._deadline: Final = time.monotonic() + seconds
        self._overrun: Final = overrun
        self._on_progress: Final = on_progress
        self._told: Progress | None = None
        self._told_at = -TICK_SECONDS

    def events(self, *, at_most_seconds: float = TICK_SECONDS) -> list[tuple[Child, dict[str, Any]]]:
        """Wait until a child says something or a tick passes, and return what was said.

        :raises GitError: the deadline passed.
        :raises InternalError: a child exceeded its event limit, or sent an invalid event.
        """
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise self._overrun
        self._tick()
        self._wait(min(remaining, self._until_tick(), at_most_seconds))
        heard = []
        for child in self._children:
            child.flush()
            # Asked before the last events are read. A process that it started may hold them open after its end.
            has_ended = child.exit_status() is not None
            heard += [(child, event) for event in child.read_events()]
            child.finished |= has_ended
        return heard

    def _wait(self, seconds: float) -> None:
        waiting = select.poll()
        for child in self._children:
            if not child.finished:
                waiting.register(child.events_fd, select.POLLIN)
            if child.wants_to_send:
                waiting.register(child.input_fd, select.POLLOUT)
            if child.reply_fd is not None:
                waiting.register(child.reply_fd, select.POLLIN)
            if child.is_pending:
                seconds = min(seconds, _ROOM_SECONDS)
        waiting.poll(max(1, seconds * 1_000))

    def _until_tick(self) -> float:
        pause = TICK_SECONDS if self.progress == self._told else _SHORTEST_TICK_SECONDS
        return max(0.0, self._told_at + pause - time.monotonic())

    def _tick(self) -> None:
        if self._until_tick() > 0:
            return
        self._told, self._told_at = self.progress, time.monotonic()
        self._on_progress(self.progress)
