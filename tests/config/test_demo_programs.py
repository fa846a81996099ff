"""The demo's programs: they end with the block, whatever they do, and their failures can be read."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from config.demo import processes
from config.demo.processes import DemoFailed, Program

STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.write(1, b"child %d\\n" % os.getpid())
else:
    os.write(1, b"parent %d\\n" % os.getpid())
time.sleep(60)
"""


def program(tmp_path: Path, code: str, **options: object) -> Program:
    """Return a program that runs ``code``."""
    return Program(
        "test program",
        [sys.executable, "-c", code],
        environment=dict(os.environ),
        directory=tmp_path,
        log_directory=tmp_path,
        **options,  # type: ignore[arg-type]
    )


def lines(running: Program, count: int) -> list[str]:
    """Wait until the program has logged ``count`` lines and return them."""
    deadline = time.monotonic() + 20
    while len(found := running.log.read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    """Return whether the process exists; one that nobody waited for counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_gone(pids: list[int]) -> None:
    """Wait until none of the processes exists: a kill takes a moment, and only the first one is waited for."""
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, pids))


def test_only_the_main_process_is_asked_to_stop(tmp_path: Path) -> None:
    """A group that gets the signal all at once may hang, so the first process stops the others."""
    code = """
import os, signal, sys, time
def say(line): os.write(1, line + b"\\n")  # by one call: two processes write
def main(*_): say(b"main stops"); os.kill(child, signal.SIGKILL); sys.exit()
def other(*_): say(b"child was asked")
child = os.fork()
signal.signal(signal.SIGTERM, main if child else other)
say(b"ready")
while True: time.sleep(0.1)  # a handler that is due as a long sleep begins would wait for its end
"""
    with program(tmp_path, code) as running:
        lines(running, 2)

    assert running.log.read_text().splitlines() == ["ready", "ready", "main stops"]


def test_whatever_does_not_stop_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the group outlives the block."""
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.2)

    with program(tmp_path, STUBBORN) as running:
        pids = [int(line.split()[1]) for line in lines(running, 2)]
        assert all(map(alive, pids))

    assert_gone(pids)


def test_an_interrupt_while_stopping_still_kills(tmp_path: Path) -> None:
    """A second Ctrl-C does not leave programs behind."""
    running = program(tmp_path, STUBBORN).__enter__()
    pids = [int(line.split()[1]) for line in lines(running, 2)]
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)

    with pytest.raises(KeyboardInterrupt):
        running.__exit__(None, None, None)

    signal.signal(signal.SIGALRM, before)
    assert_gone(pids)


def test_ctrl_c_in_the_terminal_does_not_reach_the_programs(tmp_path: Path) -> None:
    """Each program has a session of its own."""
    with program(tmp_path, "import os; print(os.getpid(), os.getsid(0), os.getpgid(0))") as running:
        pid, session, group = lines(running, 1)[0].split()

    assert pid == session == group
    assert int(session) != os.getsid(0)


def test_a_program_that_ends_by_itself_shows_the_end_of_its_log(tmp_path: Path) -> None:
    """The failure names the program and its status, and has the lines that say why."""
    code = 'import sys; [print("line", number) for number in range(100)]; sys.exit("the port is taken")'

    with program(tmp_path, code) as running:
        lines(running, 101)
        running._process.wait(timeout=20)
        with pytest.raises(DemoFailed) as raised:
            running.check()

    text = str(raised.value)
    assert text.startswith("The test program ended with status 1.")
    assert "the port is taken" in text
    assert "line 99" in text
    assert "line 50" not in text
