"""Binds a process to a list of system calls: every other call fails, or ends it.

It complements :mod:`~coderepos.git.confinement.landlock`, which knows paths and TCP ports, but no modes or owners of
files, no UDP and no way past its own calls. See :manpage:`seccomp(2)`.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from coderepos.git.confinement.bpf import AARCH64, EPERM, X86_64, AllowList, Architecture, program
from coderepos.git.confinement.linux import prctl

_PR_GET_SECCOMP = 21
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_INSTRUCTION_BYTES = 8


def architecture(machine: str | None = None) -> Architecture | None:
    """Return how the running 64-bit interpreter's machine numbers its calls, or ``None`` where no filter is known."""
    if sys.maxsize < 2**32 or sys.byteorder != "little":
        return None
    return {"x86_64": X86_64, "aarch64": AARCH64}.get(machine or os.uname().machine)


def available() -> bool:
    """Whether the kernel takes filters on a machine whose calls are known here."""
    if architecture() is None:
        return False
    try:
        return prctl(_PR_GET_SECCOMP) >= 0
    except OSError:
        return False


def install(allowed: AllowList, *, refusal: int = EPERM) -> bool:
    """Allow this thread and all that it starts these calls alone, and return whether that was possible.

    ``no_new_privs`` must be set already, and no second thread may run.

    :param refusal: see :func:`~coderepos.git.confinement.bpf.program`.
    :raises OSError: the kernel has seccomp and refused this filter.
    """
    machine = architecture()
    if machine is None or not available():
        return False
    code = program(machine, allowed, refusal=refusal)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(code) // _INSTRUCTION_BYTES, ctypes.addressof(buffer))
    prctl(_PR_SET_SECCOMP, _MODE_FILTER, head)
    return True
