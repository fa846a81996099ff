"""A real cluster of workers in a process of its own, on the database of the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

ROOT = Path(__file__).resolve().parents[2]


def wait_until(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Return the first true value of ``condition``, which is asked again and again.

    :raises AssertionError: it did not come true within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


class Cluster:
    """``manage.py qcluster``, or another command, in its own session; the group is ended and reaped in any case.

    :param environment: environment of the process, see the fixture ``child_environment``.
    :param settings: keys of ``CODEREPOS`` that differ from the settings of the tests.
    """

    def __init__(
        self,
        environment: dict[str, str],
        log: Path,
        *,
        settings: dict[str, Any],
        command: Sequence[str] = ("qcluster",),
        **popen: Any,
    ) -> None:
        self.log = log
        self._command = command
        self._environment = {**environment, "CODEREPOS_TEST_OVERRIDES": json.dumps(settings)}
        self._popen = {"preexec_fn": heed_terminal, **popen}

    def __enter__(self) -> Self:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), *self._command],
                env=self._environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self._popen,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            print(self.log.read_text(errors="replace")[-4_000:])
        self.kill()
        if error is not None:
            print(self.log.read_text(errors="replace")[-8_000:])

    def kill(self) -> None:
        """Kill the whole cluster at once, as a power cut would."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=10)

    def pids(self) -> list[int]:
        """Return the processes of the cluster's session, those of its children's own sessions left out."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _session(entry) == self.process.pid:
                found.append(int(entry.name))
        return found


def heed_terminal() -> None:
    """Let a child that has not started yet be ended by Ctrl-C and a closed terminal, which ``nohup`` has it ignore."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def leave_in_order(number: int, _: object) -> NoReturn:
    """Handle a signal by leaving every ``with`` block, so that all ends that was started; a second is ignored."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def children_of(pid: int) -> list[int]:
    """Return the living children of a process."""
    return [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _stat(entry)[1] == str(pid)
    ]


def fork_servers_of(pid: int) -> list[int]:
    """Return the living fork servers of a process, which have sessions of their own."""
    return [child for child in children_of(pid) if _session(Path(f"/proc/{child}")) == child]


def forked_for(pid: int) -> list[int]:
    """Return the living processes that clone for a process."""
    return [child for server in fork_servers_of(pid) for child in children_of(server)]


def _session(entry: Path) -> int:
    return int(_stat(entry)[3])


def _stat(entry: Path) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` after the command: state, parent, group, session."""
    try:
        return (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["X", "0", "0", "0"]
