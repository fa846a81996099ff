"""Calls of Linux that :mod:`os` does not offer, by :mod:`ctypes`: the one place that loads libc."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from contextlib import suppress
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38

_CAPABILITY_VERSION_3: Final = 0x20080522
_SYNC_FILE_RANGE_WRITE: Final = 2

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: object) -> int:
    """Make one system call and return its result, or the negative error number."""
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    return result if result >= 0 else -ctypes.get_errno()


def prctl(option: int, *arguments: int | bytes) -> int:
    """Call :manpage:`prctl(2)` and return its result.

    :raises OSError: the kernel refused it.
    """
    values = [ctypes.c_ulong(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in arguments]
    result: int = _libc.prctl(ctypes.c_int(option), *values, *[ctypes.c_ulong(0)] * (4 - len(values)))
    if result < 0:
        raise _error("prctl")
    return result


def die_with_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent ends, however that ends.

    :param parent_pid: what the parent called itself, since it may be gone already.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def close_to_others() -> None:
    """Keep other processes of this user out of the memory of this process and of all that it forks.

    The kernel is told before to choose them, not the host, when the machine runs out of memory: from then on
    ``/proc/self`` belongs to root.

    :raises OSError: the kernel refused it.
    """
    # Without /proc, or in a container that forbids it, there is none: a courtesy, and no part of any level.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as adjustment:
        adjustment.write("800")
    prctl(PR_SET_DUMPABLE, 0)


def drop_capabilities() -> None:
    """Give every capability of this process away for good.

    :raises OSError: the kernel refused it.
    """
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, bytes(24)):
        raise _error("capset")


def start_writeback(descriptor: int) -> None:
    """Let the kernel begin to write a file to its disk, so that less is left in the end: sync_file_range(2)."""
    start = getattr(_libc, "sync_file_range", None)
    # A length of zero means to the end. An error shows when everything is made durable.
    if start is not None:
        start(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


def sync_filesystem(descriptor: int) -> None:
    """Write everything of the file system to its disk: one call, where each of thousands of files would need one.

    :raises OSError: the disk is full or fails.
    """
    sync = getattr(_libc, "syncfs", None)
    if sync is None:
        os.sync()
    elif sync(descriptor):
        raise _error("syncfs")


def _error(call: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{call}: {os.strerror(code)}")
