"""One process, by system calls alone: started with three pipes, killed with its whole group, reaped.

:mod:`subprocess` is not used. Servers with green threads (gevent) replace it, ``os.posix_spawn``, ``os.waitpid`` and
``time.sleep`` by functions that let another green thread run before they return. That must not happen while signals
are blocked: the other one would run with this one's mask, and put its own back too late. So nothing that is called in
:func:`signals_blocked` waits, logs, or is replaced by anybody.
"""

from __future__ import annotations

import fcntl
import os
import posix
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PACK_FD: Final = 3
"""Descriptor under which every child finds its end of the pack pipe."""

_LOWEST_FD: Final = 10
"""Descriptors below are those of the child, which must not be overwritten before they are copied."""

_SHORTEST_PAUSE_SECONDS: Final = 0.0005
_LONGEST_PAUSE_SECONDS: Final = 0.02


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Let signals for this thread wait to the end of a ``with`` block, in which nothing may wait.

    A handler that raises, such as a queue's time-out, would otherwise separate a process from who has to end it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Process:
    """A process in a session of its own, with an empty environment, whose standard error is ``/dev/null``.

    Start it inside of :func:`signals_blocked`.

    :param command: absolute path of the program, and its arguments.
    :param pack_fd: descriptor that it inherits as :data:`PACK_FD`.
    :raises OSError: it cannot be started; nothing is left open.
    """

    def __init__(self, command: list[str], pack_fd: int) -> None:
        self.is_reaped = False
        """Whether it is gone, so that nobody can know any more how it ended."""
        opened: list[int] = []
        try:
            opened += (stdin := os.pipe())
            opened += (stdout := os.pipe())
            copies: list[tuple[int, int, int]] = []
            for number, descriptor in ((0, stdin[0]), (1, stdout[1]), (PACK_FD, pack_fd)):
                opened.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD))
                copies.append((posix.POSIX_SPAWN_DUP2, opened[-1], number))
            self.pid: Final = posix.posix_spawn(
                command[0],
                command,
                {},
                file_actions=[*copies, (posix.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)],
                setsid=True,
                setsigmask=(),
                # Hosts ignore these, and a child could not tell how a process ended that it forked.
                setsigdef=(signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ),
            )
            """Its process id, also the id of its session and process group."""
            self.input_fd: Final = stdin[1]
            """Writes to its standard input."""
            self.output_fd: Final = stdout[0]
            """Reads its standard output."""
            for kept in (self.input_fd, self.output_fd):
                opened.remove(kept)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def exit_status(self) -> int | None:
        """Return how it ended, negative for a signal, or ``None`` while it runs or where nobody can know.

        It stays a zombie, so that the id of its group stays its own.
        """
        ended = self._wait(os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def end(self, *, within_seconds: float) -> bool:
        """Kill its process group and reap it; return whether it ended in time.

        Where a signal handler raises meanwhile, call it again.
        """
        with signals_blocked():
            self._wait(os.WNOWAIT)
            # Where the host reaped it (it ignores SIGCHLD or waits for any child), its id may be a stranger's by now.
            if not self.is_reaped:
                os.killpg(self.pid, signal.SIGKILL)
        deadline, pause_seconds = time.monotonic() + within_seconds, _SHORTEST_PAUSE_SECONDS
        while not self.is_reaped:
            with signals_blocked():
                self.is_reaped = self._wait(0) is not None or self.is_reaped
            if not self.is_reaped:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        return True

    def _wait(self, options: int) -> os.waitid_result | None:
        """Return how it ended, without waiting for that; take note where it was reaped by somebody else."""
        if self.is_reaped:
            return None
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | options)
        except ChildProcessError:
            self.is_reaped = True
            return None
