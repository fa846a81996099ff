"""Runs a call in a second process on another core."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import ClassVar, Final, Self

from coderepos.git.confinement.linux import die_with_parent

CRASHES: Final = frozenset(
    {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP}
)
"""What ends a process that was attacked in its memory; the next one must not have the same layout."""

_FAILED: Final = 255
"""Exit code after any other exception; error numbers are below."""


class Forked:
    """A call that runs in a copy of this process, confined as this one is; a context manager that stops it.

    It dies with this process. What it makes must go through shared memory or files. Only for a process without threads.
    Where the machine takes no further process, it counts as one that failed.

    :param call: what to run; of an exception only the error number of an ``OSError`` comes back,
        and ``ENOMEM`` for a lack of memory.
    """

    any_crashed: ClassVar[bool] = False
    """Whether one of this process has crashed; the fork server is told by the exit status."""

    def __init__(self, call: Callable[[], None]) -> None:
        parent = os.getpid()
        self._exit_code: int | None = None
        try:
            self._pid = os.fork()
        except OSError as error:
            self._pid, self._exit_code = -1, min(error.errno or _FAILED, _FAILED)
        if not self._pid:
            _run(call, parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    @property
    def has_started(self) -> bool:
        """Whether there is, or was, a second process."""
        return self._pid > 0

    def has_ended(self) -> bool:
        """Return whether the call has ended, one way or the other."""
        return self._ended(os.WNOHANG)

    def succeeded(self) -> bool:
        """Wait for the end of the call, and return whether it returned."""
        self._ended(0)
        return self._exit_code == 0

    def os_error(self) -> OSError | None:
        """Wait for the end of the call, and return the error of the system that ended it, if it was one."""
        code = 0 if self.succeeded() or self._exit_code is None else self._exit_code
        return OSError(code, os.strerror(code)) if 0 < code < _FAILED else None

    def _ended(self, options: int) -> bool:
        if self._exit_code is None:
            pid, status = os.waitpid(self._pid, options)
            self._exit_code = os.waitstatus_to_exitcode(status) if pid else None
            if self._exit_code is not None and -self._exit_code in CRASHES:
                Forked.any_crashed = True
        return self._exit_code is not None

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
    code = _FAILED
    try:
        die_with_parent(parent)
        call()
        code = 0
    except MemoryError:
        code = errno.ENOMEM
    except OSError as error:
        code = min(error.errno or _FAILED, _FAILED)
    finally:
        # Neither handlers nor buffers of the copied process may run here.
        os._exit(code)
