"""Keeps the keys of a process from the other processes of its user.

Linux lets every process of a user read memory and environment of the others in ``/proc``, and attach to them. A process
that is not dumpable belongs to root there (prctl(2), proc(5)). It stays so over a fork, and not over an execve(2): the
programs that the app starts have an empty environment.
"""

from __future__ import annotations

import ctypes
import logging
import os
from typing import Final

from coderepos.conf import conf
from coderepos.hidden import HiddenBytes

logger = logging.getLogger(__name__)

_PR_SET_DUMPABLE: Final = 4
_ENV_START: Final = 47
_ENV_END: Final = 48
"""Positions in ``/proc/self/stat``, counted after the program's name: fields 50 and 51 of proc(5)."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


def close_process() -> None:
    """Forbid other processes of the user to look into this one, and take the master keys out of its environment.

    The settings were read before, and keep the keys. Does nothing where the system does not allow it, and says so.
    """
    if _libc.prctl(_PR_SET_DUMPABLE, *[ctypes.c_ulong(0)] * 4):
        logger.warning("This process can be read by others of its user: %s", os.strerror(ctypes.get_errno()))
    keys = [HiddenBytes(key, "utf-8") for key in map(str, filter(None, _master_keys()))]
    for name in [name for name in os.environb if any(os.environb[name].find(key) >= 0 for key in keys)]:
        del os.environb[name]
    _overwrite(keys)


def _master_keys() -> tuple[str | None, ...]:
    return (conf.MASTER_ENCRYPTION_KEY, *conf.DECRYPT_ONLY_MASTER_KEYS)


def _overwrite(keys: list[HiddenBytes]) -> None:
    """Overwrite keys in the memory that the process was started with: the kernel shows it whatever was deleted."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError as error:
        logger.warning("The environment that this process was started with keeps its keys: %s", error.strerror)
        return
    start, end = int(fields[_ENV_START]), int(fields[_ENV_END])
    if not 0 < start < end:  # some sandboxes do not tell
        logger.warning("The environment that this process was started with keeps its keys: it cannot be found")
        return
    for key in keys:
        at = ctypes.string_at(start, end - start).find(key)
        while at >= 0:
            ctypes.memset(start + at, ord("*"), len(key))
            at = ctypes.string_at(start, end - start).find(key)
