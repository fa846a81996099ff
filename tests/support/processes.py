"""What is left of child processes, read from ``/proc``."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from coderepos.git.process import spawner
from coderepos.git.process.child import Child
from coderepos.git.process.signal_mask import signals_blocked

_PR_SET_CHILD_SUBREAPER = 36
_PTRACE_SEIZE = 0x4206
_libc = ctypes.CDLL(None)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


@dataclass(frozen=True)
class Process:
    """One line of ``/proc/*/stat``."""

    pid: int
    state: str
    parent: int
    session: int


def descendants(of: int) -> dict[int, Process]:
    """Return all processes below one, zombies too."""
    processes = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, parent, _, session, *_ = (entry / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            processes[int(entry.name)] = Process(int(entry.name), state, int(parent), int(session))
    found = {of}
    while more := {pid for pid in processes if pid not in found and processes[pid].parent in found}:
        found |= more
    return {pid: processes[pid] for pid in found - {of} if pid in processes}


def adopt_orphans(*, adopt: bool) -> None:
    """Become, or stop to be, the parent of grandchildren whose own parent dies, so that they are seen."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def left_over(before: set[int]) -> dict[int, Process]:
    """Return what runs or waits below this process and did not before, apart from its fork server.

    Adopted orphans that have ended are reaped on the way: their own parent has ended, so nobody else could.
    """
    spawner.reap()
    left = {
        pid: process
        for pid, process in descendants(os.getpid()).items()
        if pid not in before and pid != fork_server_pid()
    }
    for pid, process in list(left.items()):
        if process.state == "Z" and process.parent == os.getpid():
            os.waitpid(pid, 0)
            del left[pid]
    return left


def fork_server_pid() -> int | None:
    """Return the process id of this process's fork server, if it has one."""
    current = spawner._registry.spawner
    return current.pid if current else None


def stop_fork_server() -> None:
    """End this process's fork server, with all its children, and wait for that."""
    with signals_blocked():
        spawner._registry.dismiss()
    deadline = time.monotonic() + 10
    while not spawner.reap():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def open_descriptors() -> set[str]:
    """Return where the open descriptors of this process lead, apart from the one to its fork server."""
    current = spawner._registry.spawner
    found = set()
    for name in os.listdir("/proc/self/fd"):
        if not current or int(name) != current.control.fileno():
            with suppress(FileNotFoundError):  # the one that listed them
                found.add(os.readlink(f"/proc/self/fd/{name}"))
    return found


def forked_pid(child: Child) -> int:
    """Wait until a child was forked and return its process id."""
    deadline = time.monotonic() + 10
    while child.pid is None:
        assert child.exit_status() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return child.pid


@contextmanager
def held_by_the_kernel(pid: int) -> Iterator[None]:
    """Let a process stay, for its parent, however it is killed: what traces it sees its end first."""
    if _libc.ptrace(_PTRACE_SEIZE, pid, None, None):
        pytest.skip("this user may not trace processes")
    yield
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
