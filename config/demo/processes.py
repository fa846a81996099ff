"""Long-running programs of the demo: each in a process group of its own, with a log, and gone at the end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

TAIL_LINES: Final = 25
STOP_SECONDS: Final = 15


class DemoFailed(Exception):
    """The demo cannot go on; the message tells the user why."""


class Program:
    """A server that runs as long as the ``with`` block does.

    :param name: what messages call it, and the name of its log.
    :param inherited: file descriptors that it keeps open, such as a listening socket.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        log_directory: Path,
        inherited: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log_directory / f"{name.replace(' ', '-')}.log"
        self._command = command
        self._environment = environment
        self._directory = directory
        self._inherited = tuple(inherited)

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self._inherited,
                start_new_session=True,  # Ctrl-C in the terminal is for the demo, which then stops this in order
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask the main process to stop, then end whatever is left of its group.

        A cluster of workers that gets the signal in all its processes at once hangs, so only the first one is asked.
        """
        try:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=STOP_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def check(self) -> None:
        """Raise :class:`DemoFailed` with the end of the log when the program has ended by itself."""
        status = self._process.poll()
        if status is not None:
            raise DemoFailed(f"The {self.name} ended with status {status}.\n{self.tail()}")

    def tail(self) -> str:
        """Return the last lines of the log."""
        return tail(self.name, self.log.read_text(errors="replace"))


def tail(name: str, text: str) -> str:
    """Return the last lines of ``text`` under a heading."""
    lines = text.splitlines()[-TAIL_LINES:]
    return "\n".join([f"Last lines of the {name}:", *(f"  | {line}" for line in lines)])
