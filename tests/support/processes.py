"""What is left of child processes, read from ``/proc``."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


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
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def left_over(before: set[int]) -> dict[int, Process]:
    """Return what runs or waits below this process and did not before.

    Adopted orphans that have ended are reaped on the way: their own parent was killed, so nobody else could.
    """
    left = {pid: process for pid, process in descendants(os.getpid()).items() if pid not in before}
    for pid, process in list(left.items()):
        if process.state == "Z" and process.session != pid:
            os.waitpid(pid, 0)
            del left[pid]
    return left
