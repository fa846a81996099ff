"""The host's handle on one child: feeds and hears it by pipes, and asks the fork server for it and for its end.

This process signals nobody: an id could be a stranger's by the time. The fork server kills the child, with its whole
group (:mod:`coderepos.git.process.forkserver`).
"""

from __future__ import annotations

import _socket
import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from coderepos.git.process import spawner
from coderepos.git.process.forkserver import FORK_FAILED
from coderepos.git.process.signal_mask import signals_blocked
from coderepos.git.process.spawner import Spawner

START_SECONDS: Final = 20.0
"""How long a fork server may take to fork a child before it is taken for frozen and killed."""

_MESSAGE_BYTES: Final = 1_024
_READ_BYTES: Final = 1 << 16
_ENDING_SECONDS: Final = 1.0
_SHORTEST_PAUSE_SECONDS: Final = 0.001
_LONGEST_PAUSE_SECONDS: Final = 0.02


class Process:
    """A process in a session of its own, with an empty environment, whose standard error is ``/dev/null``.

    Make it inside of :func:`signals_blocked`. It is asked for at once, or by :meth:`advance` where the fork server has
    no room for another request.

    :param module: dotted name of the module whose ``main(pack_fd)`` it runs.
    :param pack_fd: descriptor that it inherits as its end of the pack pipe.
    :raises OSError: it cannot be started; nothing is left open.
    """

    def __init__(self, module: str, pack_fd: int) -> None:
        self._module: Final = module
        self._owner_pid: Final = os.getpid()
        self._spawner: Spawner | None = None
        self._requested_at = time.monotonic()
        self._reported: dict[str, Any] = {}
        self._reply_ended = False
        self._open: Final[set[int]] = set()
        self._reply, reply = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            self._reply.setblocking(False)  # noqa: FBT003 (positional only)
            (reply_fd,) = self._opened(reply.detach())
            child_input, self.input_fd = self._opened(*os.pipe())
            self.output_fd, child_output = self._opened(*os.pipe())
            (pack,) = self._opened(fcntl.fcntl(pack_fd, fcntl.F_DUPFD_CLOEXEC, 0))
            self._passed: Final = (reply_fd, child_input, child_output, pack)
            os.set_blocking(self.input_fd, False)
            os.set_blocking(self.output_fd, False)
            self._submit()
        except BaseException:
            self._close_all()
            raise

    def __del__(self) -> None:
        # A handler that raises just before somebody can end it leaves nothing: without its reply socket it is killed.
        with suppress(AttributeError):
            self._close_all()

    @property
    def pid(self) -> int | None:
        """Its process id, also the id of its session and process group; ``None`` before it was forked."""
        return self._reported.get("pid")

    @property
    def is_pending(self) -> bool:
        """Whether there was no room yet to ask for it."""
        return self._spawner is None and not self._reply_ended

    @property
    def reply_fd(self) -> int | None:
        """Descriptor that can be read when there is news of it; ``None`` once there will be none."""
        return None if self._reply_ended or self._is_closed() else self._reply.fileno()

    @property
    def is_lost(self) -> bool:
        """Whether the fork server ended before it did: it was killed then, and nobody can know more."""
        return self._reply_ended and self._spawner is not None and "exit_status" not in self._reported

    @property
    def is_gone(self) -> bool:
        """Whether it has ended for certain, and every process of its group with it."""
        return self._reply_ended and not self.is_lost

    @property
    def usage(self) -> Mapping[str, Any]:
        """What it took, once it has ended: ``cpu_seconds``, ``peak_bytes``; ``server_cpu_seconds`` until then."""
        return self._reported

    def describe_exit(self) -> str:
        """Return in words how it ended."""
        if self.is_lost and self._spawner:
            # It closes its sockets a moment before it has ended.
            self._wait(self._spawner.has_ended, _ENDING_SECONDS)
            return f"killed with its fork server, whose exit status was {self._spawner.exit_status}"
        if "errno" in self._reported:
            return f"not forked: {os.strerror(self._reported['errno'])}"
        return f"exit status {self._reported.get('exit_status')}"

    def exit_status(self) -> int | None:
        """Return how it ended, negative for a signal, or ``None`` while it runs."""
        self.advance()
        return -signal.SIGKILL if self.is_lost else self._reported.get("exit_status")

    def advance(self) -> None:
        """Ask for it, if there was no room before, and read what the fork server says, without waiting."""
        with signals_blocked():
            if self.is_pending:
                try:
                    self._submit()
                except OSError as error:
                    self._reported = {"exit_status": FORK_FAILED, "errno": error.errno}
                    self._reply_ended = True
                    self._close(*self._passed)
            self._read_reply()
            is_late = time.monotonic() - self._requested_at > START_SECONDS
            if is_late and not self._reported and not self._reply_ended and not self._is_closed():
                spawner.replace(self._spawner, older_than=self._requested_at)

    def end(self, *, within_seconds: float) -> bool:
        """Have its process group killed, wait for that, and close all descriptors; return whether it ended in time.

        Where a signal handler raises meanwhile, call it again.
        """
        # A fork of its host has copies of all descriptors, and no say.
        if self._owner_pid == os.getpid() and not self._is_closed():
            self._request_kill()
            if not self._wait(lambda: self._reply_ended, within_seconds) and not self._is_acknowledged():
                with signals_blocked():
                    spawner.replace(self._spawner, older_than=self._requested_at)
                self._wait(lambda: self._reply_ended, within_seconds)
            if self.is_lost:
                self._wait(self._is_dead_with_server, within_seconds)
        with signals_blocked():
            self._close_all()
        return self._reply_ended

    def close_input(self) -> None:
        """Close its standard input."""
        with signals_blocked():
            self._close(self.input_fd)

    def _submit(self) -> None:
        self._spawner = spawner.submit(self._module, self._passed)
        if self._spawner:
            self._requested_at = time.monotonic()
            self._close(*self._passed)

    def _read_reply(self) -> None:
        # Asked before the last messages are read. A process that this one forked may hold the far end open.
        has_ended = self._spawner is not None and self._owner_pid == os.getpid() and self._spawner.has_ended()
        while self._spawner and not self._reply_ended and not self._is_closed():
            try:
                message = self._reply.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                self._reply_ended = has_ended
                return
            except OSError:
                message = b""
            self._reported |= json.loads(message or b"{}")
            self._reply_ended = not message

    def _request_kill(self) -> None:
        with signals_blocked():
            if self.is_pending:
                self._reply_ended = True
            elif not self._reply_ended:
                self._reply.shutdown(_socket.SHUT_WR)

    def _is_acknowledged(self) -> bool:
        """Return whether the fork server did its part; the kernel may hold a process that was killed."""
        return not self._reported.keys().isdisjoint(("is_killed", "exit_status"))

    def _is_dead_with_server(self) -> bool:
        """Return whether it is gone with the fork server: nobody holds its standard output any more."""
        try:
            while self.output_fd in self._open and os.read(self.output_fd, _READ_BYTES):
                continue
        except BlockingIOError:
            return False
        with signals_blocked():
            spawner.reap()
            return self._spawner is None or self._spawner.has_ended()

    def _wait(self, is_true: Callable[[], bool], seconds: float) -> bool:
        deadline, pause_seconds = time.monotonic() + seconds, _SHORTEST_PAUSE_SECONDS
        while True:
            self.advance()
            if is_true():
                return True
            if time.monotonic() >= deadline:
                return False
            self._pause(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _pause(self, seconds: float) -> None:
        """Wait for news of it, at most so long."""
        waiting = select.poll()
        if self.reply_fd is not None:
            waiting.register(self.reply_fd, select.POLLIN)
        waiting.poll(seconds * 1_000)

    def _opened(self, *descriptors: int) -> tuple[int, ...]:
        self._open.update(descriptors)
        return descriptors

    def _close(self, *descriptors: int) -> None:
        for descriptor in self._open.intersection(descriptors):
            self._open.remove(descriptor)
            os.close(descriptor)

    def _is_closed(self) -> bool:
        return self._reply.fileno() == -1

    def _close_all(self) -> None:
        self._reply.close()
        self._close(*self._open)
