"""Starts, feeds, hears and kills one child process.

A child has an empty environment, its own session and ``/`` as working directory. Its standard input takes request
lines, its standard output gives event lines, its standard error is ``/dev/null``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

from coderepos.exceptions import InternalError
from coderepos.git.process.child_handle import Process
from coderepos.git.process.signal_mask import signals_blocked
from coderepos.git.wire import MESSAGE_BYTES, load_line

logger = logging.getLogger(__name__)

EVENT_BYTES: Final = 2 * MESSAGE_BYTES
"""Most bytes that a child may say in all."""

EVENT_LINES: Final = 100_000
"""Most events of a child: five a second for more than five hours."""

PIPE_BYTES: Final = 1 << 20
"""Wanted capacity of the pack pipe: what an unprivileged user may ask for."""

_READ_BYTES: Final = 1 << 16
_REAP_SECONDS: Final = 10
_PAUSE_SECONDS: Final = 0.005


class Child:
    """One child process; a context manager that leaves nothing of it behind. Make it inside of :func:`starting`.

    :param name: ``fetch`` or ``build``, for logs.
    :param module: dotted name of the module whose ``main(pack_fd)`` is run.
    :param pack_fd: descriptor of the pack pipe's end that it inherits.
    """

    def __init__(self, name: str, module: str, pack_fd: int) -> None:
        self.name: Final = name
        self.finished = False
        """Whether it closed its events, or ended."""
        self._received = bytearray()
        self._received_bytes = 0
        self._received_lines = 0
        self._unsent = bytearray()
        self._closing = False
        self._process: Final = Process(module, pack_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int | None:
        """Process id, also the id of its session and process group; ``None`` before it was forked."""
        return self._process.pid

    @property
    def is_pending(self) -> bool:
        """Whether there was no room yet to ask for it."""
        return self._process.is_pending

    @property
    def is_gone(self) -> bool:
        """Whether it has ended for certain, and every process of its group with it."""
        return self._process.is_gone

    @property
    def usage(self) -> Mapping[str, Any]:
        """What it took, once it has ended: ``cpu_seconds`` and ``peak_bytes``."""
        return self._process.usage

    @property
    def reply_fd(self) -> int | None:
        """Descriptor that can be read when there is news of its end; ``None`` once there will be none."""
        return self._process.reply_fd

    @property
    def input_fd(self) -> int:
        """Descriptor of its standard input."""
        return self._process.input_fd

    @property
    def events_fd(self) -> int:
        """Descriptor of its events."""
        return self._process.output_fd

    @property
    def wants_to_send(self) -> bool:
        """Whether there are bytes that its standard input had no room for."""
        return bool(self._unsent)

    def send(self, line: bytes, *, last: bool = False) -> None:
        """Send one line, as far as there is room now; :meth:`flush` sends the rest.

        :param last: close its standard input after this line.
        """
        self._unsent += line
        self._closing = last
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as there is room now."""
        try:
            while self._unsent:
                del self._unsent[: os.write(self.input_fd, self._unsent)]
        except BlockingIOError:
            return
        except BrokenPipeError:
            # It closed its input or ended; why, its events or its exit say.
            self._unsent.clear()
        if self._closing:
            self._process.close_input()

    def read_events(self) -> list[dict[str, Any]]:
        """Return the events that arrived since the last call, without waiting.

        :raises InternalError: it exceeded its event limit, or sent an invalid event.
        """
        lines: list[bytes] = []
        while not self.finished:
            try:
                chunk = os.read(self.events_fd, _READ_BYTES)
            except BlockingIOError:
                break
            self.finished = not chunk
            self._received_bytes += len(chunk)
            self._received += chunk
            if b"\n" in chunk:
                *complete, self._received = self._received.split(b"\n")
                lines += map(bytes, complete)
            self._received_lines += chunk.count(b"\n")
            if (
                self._received_bytes > EVENT_BYTES
                or self._received_lines > EVENT_LINES
                or len(self._received) > MESSAGE_BYTES
            ):
                raise self.misbehaved("exceeded its event limit")
        try:
            return [load_line(line) for line in lines]
        except (ValueError, RecursionError):
            raise self.misbehaved("sent an invalid event") from None

    def exit_status(self, *, within_seconds: float = 0) -> int | None:
        """Return how it ended by itself, negative for a signal, or ``None`` while it runs.

        :param within_seconds: wait so long for its end; its pipes close a moment before it.
        """
        deadline = time.monotonic() + within_seconds
        while (status := self._process.exit_status()) is None and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)
        return status

    def describe_exit(self) -> str:
        """Return in words how it ended."""
        return self._process.describe_exit()

    def end(self) -> None:
        """Have its process group killed, wait for that, and close its pipes.

        What a signal handler raises meanwhile goes through after that.
        """
        try:
            ended = self._process.end(within_seconds=_REAP_SECONDS)
        except BaseException:
            self._process.end(within_seconds=_REAP_SECONDS)
            raise
        if not ended:
            logger.error("The %s child %s does not end: the kernel holds it", self.name, self.pid)

    def misbehaved(self, what: str) -> InternalError:
        """Log what this child did and return the error for it."""
        logger.warning("The %s child %s", self.name, what)
        return InternalError()


@contextmanager
def starting() -> Iterator[None]:
    """Let signals for this thread wait while children are started and handed to who ends them.

    :raises InternalError: one cannot be started; the log says why.
    """
    try:
        with signals_blocked():
            yield
    except OSError as error:
        logger.error("A child process can't be started: %s", error.strerror)
        raise InternalError from None


def pack_pipe() -> tuple[int, int]:
    """Return the read end and the write end of a pipe as large as the kernel grants."""
    read_end, write_end = os.pipe()
    with suppress(OSError):
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return read_end, write_end
