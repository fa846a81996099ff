"""A child process that drops its rights as the real ones do, then tries what an attacker would try.

It is started by the real launcher. Its request names the role, the user to become, what to pretend and what to try
(:mod:`tests.support.programs.attempts`); its one event says how each attempt ended: ``done``, what it found, or the
name of the error.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from coderepos.exceptions import CodeReposError
from coderepos.git.confinement import first_use, landlock, linux, profiles, seccomp
from coderepos.git.wire import build_request, dump_line, fetch_request, load_line, search_request
from tests.support.programs.attempts import ATTEMPTS, Attempt, Given


def main(pack_fd: int) -> int:
    """Do what the one line on standard input says."""
    given = {**load_line(sys.stdin.buffer.readline()), "parent": os.getppid()}
    first_use.load()  # another user may not be allowed to read this interpreter
    if given["user"] is not None:
        os.setgroups([])
        os.setresgid(given["user"], given["user"], given["user"])
        os.setresuid(given["user"], given["user"], given["user"])
    pretend(given["without"])
    try:
        report, seconds = confine(given)
        results = {name: attempt(ATTEMPTS[name], given) for name in given["attempts"]}
        answer = {"report": report, "seconds": seconds, "results": results, "open": open_descriptors(pack_fd)}
    except CodeReposError as error:
        answer = {"error": error.code, "fields": error.fields}
    os.write(1, dump_line(answer))
    return 0


def pretend(missing: list[str]) -> None:
    """Let the kernel look as if it lacked these."""
    syscall = linux.syscall
    if "landlock" in missing:
        linux.syscall = lambda number, *rest: -errno.ENOSYS
    if "landlock_at_boot" in missing:
        linux.syscall = lambda number, *rest: -errno.EOPNOTSUPP
    if "landlock_layers" in missing:
        linux.syscall = lambda number, *rest: (
            -errno.E2BIG if number == landlock._RESTRICT_SELF else syscall(number, *rest)
        )
    if "scopes" in missing:
        landlock.abi = lambda: 5
    if "tcp" in missing:
        landlock.abi = lambda: 1
    if "seccomp" in missing:
        seccomp.available = lambda: False


def confine(given: Given) -> tuple[object, float]:
    """Drop rights in the given role, and say how long that took."""
    before = time.perf_counter()
    if given["role"] == "build":
        report = profiles.confine_build(build_request(given["request"]))
    elif given["role"] == "fetch":
        report = profiles.confine_fetch(fetch_request(given["request"]), ports=given["ports"])
    elif given["role"] == "search":
        report = profiles.confine_search(search_request(given["request"]))
    else:
        report = {}
    return report, time.perf_counter() - before


def attempt(deed: Attempt, given: Given) -> str:
    """Return how ``deed`` ended."""
    try:
        result = deed(given)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except (MemoryError, RuntimeError, ValueError) as error:
        return type(error).__name__
    return result if isinstance(result, str) else "done"


def open_descriptors(pack_fd: int) -> list[int]:
    """Return which descriptors are open besides the three standard ones and the pack's."""
    return [descriptor for descriptor in range(3, 256) if descriptor != pack_fd and is_open(descriptor)]


def is_open(descriptor: int) -> bool:
    """Whether a descriptor is open; by a call that every child may make."""
    try:
        os.read(descriptor, 0)
    except OSError as error:
        return error.errno != errno.EBADF
    return True
