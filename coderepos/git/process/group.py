"""Waits for the end of all processes of a group that was killed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_PAUSE_SECONDS: Final = 0.002
_LOOK_CLOSER_SECONDS: Final = 0.1


def has_ended(group_id: int, *, within_seconds: float) -> bool:
    """Return whether no process of a group is at work any more.

    One that has ended but that nobody reaps, as in a container without an init process, counts as ended.

    :param group_id: a group whose first process was killed and reaped.
    """
    started = time.monotonic()
    while _exists(group_id):
        waited = time.monotonic() - started
        if waited > _LOOK_CLOSER_SECONDS and not _is_at_work(group_id):
            return True
        if waited > within_seconds:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


def _exists(group_id: int) -> bool:
    try:
        os.killpg(group_id, 0)
    except PermissionError:
        return False  # the number is a stranger's by now
    except ProcessLookupError:
        return False
    return True


def _is_at_work(group_id: int) -> bool:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                # Its name may be any bytes, brackets and spaces among them.
                state, _parent, group = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:3]
            except OSError:
                continue
            if int(group) == group_id and state not in b"ZX":
                return True
    return False
