"""A short seccomp filter: system calls that neither child has a use for fail with ``EPERM``.

It complements :mod:`~coderepos.git.confinement.landlock`, which knows paths and TCP but neither UDP, UNIX sockets nor
exec without a file. It names what is refused, not what is allowed: a list of all that Python and libc call would break
with every release of either. See :manpage:`seccomp(2)`; numbers are those of ``asm/unistd.h``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)

_PR_GET_SECCOMP: Final = 21
_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2

# Opcodes of classic BPF, linux/bpf_common.h: load a word, compare it, return.
_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_EQUAL: Final = 0x35
_RETURN: Final = 0x06

# Offsets in struct seccomp_data; the low half of the first argument comes first on little-endian machines.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_FIRST_ARGUMENT: Final = 16

_KILL_PROCESS: Final = 0x80000000
_REFUSE: Final = 0x00050000 | errno.EPERM
_ALLOW: Final = 0x7FFF0000

_X32_BIT: Final = 0x40000000

#: Calls by name with their numbers on x86_64 and aarch64; ``None`` where an architecture has no such call.
_NUMBERS: Final[dict[str, tuple[int | None, int | None]]] = {
    # other programs
    "execve": (59, 221),
    "execveat": (322, 281),
    # a second way to all other calls, past this filter
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # leaving the process group that the pipeline kills
    "setsid": (112, 157),
    "setpgid": (109, 154),
    # other processes of the same user
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    # keys, tracing, modules
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "personality": (135, 92),
    # only about another process (see _ONLY_ON_ITSELF) or only without a network (see NETWORK)
    "prlimit64": (302, 261),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "socket": (41, 198),
    "socketpair": (53, 199),
}

NETWORK: Final = frozenset({"socket", "socketpair"})
"""Without these no socket of any family can be made."""

SIGNALS: Final = frozenset({"kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"})
"""Ways to signal another process; not needed where Landlock scopes signals."""

_ONLY_ON_ITSELF: Final = {"prlimit64": 0}

ALWAYS: Final = frozenset(_NUMBERS) - NETWORK - SIGNALS - frozenset(_ONLY_ON_ITSELF)
"""What is refused in every child."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """How one kind of machine numbers its calls."""

    audit: int
    """``AUDIT_ARCH_*`` of ``linux/audit.h``."""

    column: int
    """Place of its numbers in the table."""


X86_64: Final = Architecture(audit=0xC000003E, column=0)
AARCH64: Final = Architecture(audit=0xC00000B7, column=1)


def architecture(machine: str | None = None) -> Architecture | None:
    """Return how the running 64-bit interpreter's machine numbers its calls, or ``None`` where no filter is known."""
    if sys.maxsize < 2**32 or sys.byteorder != "little":
        return None
    return {"x86_64": X86_64, "aarch64": AARCH64}.get(machine or os.uname().machine)


def program(machine: Architecture, refused: Iterable[str]) -> bytes:
    """Return the filter as an array of ``struct sock_filter``.

    A call by another architecture's table, as ``int 0x80`` makes it, ends the process. The x32 table is refused whole.
    """
    numbers = sorted(number for name in refused for number in [_NUMBERS[name][machine.column]] if number is not None)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine is X86_64:
        code += [(_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT), (_RETURN, 0, 0, _REFUSE)]
    for name, argument in _ONLY_ON_ITSELF.items():
        code += [
            (_JUMP_EQUAL, 0, 4, _NUMBERS[name][machine.column] or 0),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_JUMP_EQUAL, 0, 1, argument),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _REFUSE),
        ]
    for place, number in enumerate(numbers):
        code.append((_JUMP_EQUAL, len(numbers) - place, 0, number))
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def available() -> bool:
    """Return whether the kernel takes filters on a machine whose calls are known here."""
    return architecture() is not None and _prctl(_PR_GET_SECCOMP) >= 0


def install(refused: Iterable[str]) -> bool:
    """Refuse these calls to this thread and all that it starts, and say whether that was possible.

    ``no_new_privs`` must be set already, and no second thread may run.

    :raises OSError: the kernel has seccomp and refused this filter.
    """
    machine = architecture()
    if machine is None or not available():
        return False
    code = program(machine, refused)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    result = _prctl(_PR_SET_SECCOMP, _MODE_FILTER, head)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return True


def _prctl(option: int, *arguments: int | bytes) -> int:
    """Call prctl(2) and return its result, or the negative error number."""
    values = [ctypes.c_ulong(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in arguments]
    result: int = _libc.prctl(ctypes.c_int(option), *values, *[ctypes.c_ulong(0)] * (4 - len(values)))
    return result if result >= 0 else -ctypes.get_errno()
