"""Runs a call in a second process on another core."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from coderepos.git.isolation import die_with


class Forked:
    """A call that runs in a copy of this process, confined as this one is, and dies with it.

    What it makes must go through shared memory. Only for a process without threads.

    :param call: what to run; an exception of it only shows as failure.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        parent = os.getpid()
        self._pid: Final = os.fork()
        if not self._pid:
            _run(call, parent)

    def succeeded(self) -> bool:
        """Wait for the end of the call: did it return?"""
        return os.waitpid(self._pid, 0)[1] == 0


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
