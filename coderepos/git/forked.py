"""Runs a call in a second process on another core."""

from __future__ import annotations

import os
import signal

from coderepos.git.isolation import die_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Self


class Forked:
    """A call that runs in a copy of this process, confined as this one is; a context manager that stops it.

    It dies with this process. What it makes must go through shared memory or files. Only for a process without threads.

    :param call: what to run; an exception of it only shows as failure.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        parent = os.getpid()
        self._status: int | None = None
        self._pid: Final = os.fork()
        if not self._pid:
            _run(call, parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def has_ended(self) -> bool:
        """Did the call end, one way or the other?"""
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def succeeded(self) -> bool:
        """Wait for the end of the call: did it return?"""
        if self._status is None:
            self._status = os.waitpid(self._pid, 0)[1]
        return self._status == 0

    def end(self) -> None:
        """Stop it if it still runs, and reap it.

        A confined process may not be allowed to send signals; the call then ends with this process.
        """
        if self.has_ended():
            return
        try:
            os.kill(self._pid, signal.SIGKILL)
        except PermissionError:
            return
        self.succeeded()


def cores() -> int:
    """Return on how many processors this process may run."""
    return len(os.sched_getaffinity(0))


def _run(call: Callable[[], None], parent: int) -> None:
    status = 1
    try:
        die_with(parent)
        call()
        status = 0
    finally:
        # Neither handlers nor buffers of the copied process may run here.
        os._exit(status)
