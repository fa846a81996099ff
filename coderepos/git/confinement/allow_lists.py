"""The system calls that each child is allowed: everything that is not listed is refused.

Sorted by what they are for. Some are never seen on a common machine and must stay: ``clock_gettime`` and its kin, where
the kernel offers no vDSO; ``restart_syscall``, after a stop; ``rt_sigreturn``, after a signal. Not listed on purpose,
although libc knows how to use them: ``kill`` and its kin, so that ``abort`` ends by ``SIGSEGV``, and ``clone3``, whose
flags no filter can see. ``stat`` and ``fstat`` are what releases of glibc before 2.33 call.
"""

from __future__ import annotations

import signal
from typing import Final

from coderepos.git.confinement.bpf import AllowList, IsNull, IsOneOf, Rule, lacks

# Values of x86_64 and aarch64, octal where fcntl.h is.
_PROT_EXEC: Final = 0x4
_O_CREAT: Final = 0o100
_O_WRITING: Final = 0o3 | _O_CREAT | 0o1000  # O_ACCMODE, O_CREAT, O_TRUNC
_O_PATH_OR_TMPFILE: Final = 0o10000000 | 0o20000000
_BEYOND_PERMISSIONS: Final = ~0o777
_CLONE_THREAD: Final = 0x3D0F00
_CLONE_FORK: Final = 0x1200011
_AF_INET: Final = 2
_AF_INET6: Final = 10
_SOCK_STREAM: Final = 1
_SOCK_DGRAM: Final = 2
_SOCK_KIND: Final = ~(0o2000000 | 0o4000) & 0xFFFFFFFF  # all but SOCK_CLOEXEC and SOCK_NONBLOCK
_IPPROTO_TCP: Final = 6
_IPPROTO_UDP: Final = 17
_MSG_FASTOPEN: Final = 0x20000000
_SOL_SOCKET: Final = 1
_SO_QUERIES: Final = (3, 4, 38, 39)  # SO_TYPE, SO_ERROR, SO_PROTOCOL, SO_DOMAIN
_FIONBIO: Final = 0x5421
_FIONREAD: Final = 0x541B
_F_QUERIES: Final = (1, 3)  # F_GETFD, F_GETFL
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15


def _always(*names: str) -> AllowList:
    return dict.fromkeys((name for line in names for name in line.split()), ((),))


_NO_CODE: Final[tuple[Rule, ...]] = ((lacks(2, _PROT_EXEC),),)

SEARCH: Final[AllowList] = {
    **_always(
        "read write close",
        "brk munmap mremap madvise futex",
        "getpid gettid getrandom clock_gettime clock_getres gettimeofday time",
        "rt_sigaction rt_sigprocmask rt_sigreturn restart_syscall",
        "exit exit_group",
    ),
    "mmap": _NO_CODE,
    "mprotect": _NO_CODE,
}
"""Of the search for a commit, and of every child: to read and write what is open, and to take memory."""

_OWN_LIMITS: Final[tuple[Rule, ...]] = ((IsOneOf(0, (0,)), IsNull(2)),)
_OWN_PROCESSORS: Final[tuple[Rule, ...]] = ((IsOneOf(0, (0,)),),)

FETCH: Final[AllowList] = {
    **SEARCH,
    **_always(
        "connect getsockname getpeername recvfrom shutdown poll ppoll writev",
        "lseek uname newfstatat fstat stat",
        "set_robust_list rseq sched_yield",
    ),
    "socket": (
        (IsOneOf(0, (_AF_INET, _AF_INET6)), IsOneOf(1, (_SOCK_STREAM,), _SOCK_KIND), IsOneOf(2, (0, _IPPROTO_TCP))),
        (IsOneOf(0, (_AF_INET, _AF_INET6)), IsOneOf(1, (_SOCK_DGRAM,), _SOCK_KIND), IsOneOf(2, (0, _IPPROTO_UDP))),
    ),
    # Data with the first packet connects past Landlock.
    "sendto": ((lacks(3, _MSG_FASTOPEN), IsNull(4)),),
    "sendmmsg": ((lacks(3, _MSG_FASTOPEN),),),
    "getsockopt": ((IsOneOf(1, (_SOL_SOCKET,)), IsOneOf(2, _SO_QUERIES)),),
    "setsockopt": (
        (IsOneOf(1, (_IPPROTO_TCP,)), IsOneOf(2, (1,))),  # TCP_NODELAY
        (IsOneOf(1, (0,)), IsOneOf(2, (11,))),  # IP_RECVERR
        (IsOneOf(1, (41,)), IsOneOf(2, (25,))),  # IPV6_RECVERR
    ),
    "ioctl": ((IsOneOf(1, (_FIONBIO, _FIONREAD)),),),
    "fcntl": ((IsOneOf(1, _F_QUERIES),),),
    "openat": ((lacks(2, _O_WRITING | _O_PATH_OR_TMPFILE),),),
    "clone": ((IsOneOf(0, (_CLONE_THREAD,)),),),
    "prctl": ((IsOneOf(0, (_PR_SET_NAME,)),),),  # of a new thread, from Python 3.14 on
    "prlimit64": _OWN_LIMITS,
    "sched_getaffinity": _OWN_PROCESSORS,
}
"""TCP, UDP for names, reading files and threads; nothing that writes a file, forks, listens or signals."""

BUILD: Final[AllowList] = {
    **SEARCH,
    **_always(
        "pread64 symlinkat renameat renameat2 unlinkat sync_file_range",
        "getppid wait4 set_robust_list",
    ),
    "openat": (
        (lacks(2, _O_CREAT | _O_PATH_OR_TMPFILE),),
        (lacks(2, _O_PATH_OR_TMPFILE), lacks(3, _BEYOND_PERMISSIONS)),
    ),
    "mkdirat": ((lacks(2, _BEYOND_PERMISSIONS),),),
    "fchmod": ((lacks(1, _BEYOND_PERMISSIONS),),),
    "clone": ((IsOneOf(0, (_CLONE_FORK,)),),),
    "prctl": ((IsOneOf(0, (_PR_SET_PDEATHSIG,)), IsOneOf(1, (signal.SIGKILL,))),),
    "prlimit64": _OWN_LIMITS,
    "sched_getaffinity": _OWN_PROCESSORS,
}
"""Files by their directories' descriptors, written from their start to their end, and forks; no socket, no thread."""
