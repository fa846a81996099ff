"""What workers tell their supervisor: that they are free, busy, or about to end; a pipe of tiny messages.

Each message is written whole or not at all, and never waited for: a supervisor that is frozen holds no worker up.
"""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from coderepos.queues.protocol import WorkerState

_STATES: Final[tuple[WorkerState, ...]] = ("free", "busy", "ended")
_MESSAGE: Final = struct.Struct("=IB")
_READ_BYTES: Final = _MESSAGE.size * 4096


class Reports:
    """Both ends of the pipe, made before the fork; each side closes what is the other's."""

    def __init__(self) -> None:
        self._receiving, self._sending = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def sender(self) -> Callable[[WorkerState], None]:
        """Keep the workers' end alone, and return what sends the state of the process that calls it."""
        os.close(self._receiving)

        def send(state: WorkerState) -> None:
            with suppress(OSError):  # full, or nobody listens any more
                os.write(self._sending, _MESSAGE.pack(os.getpid(), _STATES.index(state)))

        return send

    def receiver(self) -> Workers:
        """Keep the supervisor's end alone, and return what is known of the workers."""
        os.close(self._sending)
        return Workers(self._receiving)


class Workers:
    """The workers of one cluster, as far as they told.

    :ivar any_seen: whether any worker ever started.
    :ivar died_free: whether one ended without a word while it waited for a task: it may have held the queue's lock.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: Final = descriptor
        self._states: dict[int, WorkerState] = {}
        self._stalled_since = time.monotonic()
        self.any_seen = False
        self.died_free = False
        self.all_gone = False
        """Whether every process that could report has ended."""

    def listen(self, seconds: float) -> None:
        """Wait for messages, at most ``seconds``, and take note of them and of workers that are gone."""
        select.select([] if self.all_gone else [self._descriptor], [], [], seconds)
        with suppress(BlockingIOError):
            while not self.all_gone and (received := os.read(self._descriptor, _READ_BYTES)):
                for pid, number in _MESSAGE.iter_unpack(received):
                    self._note(pid, _STATES[number])
            self.all_gone = True
        for pid in [pid for pid in self._states if not _is_there(pid)]:
            self.died_free |= self._states.pop(pid) == "free"
        if not self.free:
            self.reset_stall()

    def _note(self, pid: int, state: WorkerState) -> None:
        self.any_seen = True
        if state == "ended":
            self._states.pop(pid, None)
            return
        self._states[pid] = state
        if state == "busy":
            self.reset_stall()

    @property
    def free(self) -> int:
        """How many wait for a task."""
        return sum(state == "free" for state in self._states.values())

    @property
    def busy(self) -> int:
        """How many are at a task, of whichever app."""
        return sum(state == "busy" for state in self._states.values())

    @property
    def stalled_seconds(self) -> float:
        """For how long one or more were free and none began a task, as far as anybody can tell from here."""
        return time.monotonic() - self._stalled_since

    def reset_stall(self) -> None:
        """Begin to count anew: whatever was seen says nothing of the workers."""
        self._stalled_since = time.monotonic()

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._descriptor)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
