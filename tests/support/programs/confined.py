"""A child process that gives up its rights as the real ones do, then tries what an attacker would try.

It is started by the real launcher. Its request names the role, the user to become, what to pretend and what to try;
its one event says how each attempt ended: ``done``, or the name of the error.
"""

from __future__ import annotations

import ctypes
import encodings.idna  # noqa: F401 (before another user, who may not be allowed to read this interpreter)
import errno
import importlib
import mmap
import os
import resource
import signal
import socket
import ssl  # noqa: F401 (as encodings.idna)
import sys
import time
from collections.abc import Callable
from typing import Any

from coderepos.exceptions import CodeReposError
from coderepos.git.confinement import landlock, profiles, seccomp
from coderepos.git.wire import build_request, dump_line, fetch_request, load_line

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

Given = dict[str, Any]


def main(pack_fd: int) -> int:
    """Do what the one line on standard input says."""
    given = load_line(sys.stdin.buffer.readline())
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
    if "landlock" in missing:
        landlock._call = lambda number, *rest: -errno.ENOSYS
    if "landlock_at_boot" in missing:
        landlock._call = lambda number, *rest: -errno.EOPNOTSUPP
    if "landlock_layers" in missing:
        call = landlock._call
        landlock._call = lambda number, *rest: (
            -errno.E2BIG if number == landlock._RESTRICT_SELF else call(number, *rest)
        )
    if "scopes" in missing:
        landlock.abi = lambda: 5
    if "tcp" in missing:
        landlock.abi = lambda: 1
    if "seccomp" in missing:
        seccomp.available = lambda: False


def confine(given: Given) -> tuple[object, float]:
    """Give up rights in the given role, and say how long that took."""
    before = time.perf_counter()
    if given["role"] == "build":
        report = profiles.confine_build(build_request(given["request"]))
    elif given["role"] == "fetch":
        report = profiles.confine_fetch(fetch_request(given["request"]), ports=given["ports"])
    else:
        report = {}
    return report, time.perf_counter() - before


def attempt(deed: Callable[[Given], object], given: Given) -> str:
    """Return how ``deed`` ended."""
    try:
        result = deed(given)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except (MemoryError, ImportError, ValueError) as error:
        return type(error).__name__
    return result if isinstance(result, str) else "done"


def open_descriptors(pack_fd: int) -> list[int]:
    """Return which descriptors are open besides the three standard ones and the pack's."""
    found = []
    for descriptor in range(3, 256):
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        found.append(descriptor)
    return [descriptor for descriptor in found if descriptor != pack_fd]


def syscall(number: int, *arguments: object) -> str:
    """Make a system call and return how it ended."""
    if libc.syscall(ctypes.c_long(number), *arguments) < 0:
        return errno.errorcode[ctypes.get_errno()]
    return "done"


def connect(port: int) -> None:
    """Connect to a port of this machine."""
    with socket.create_connection(("127.0.0.1", port), 5):
        pass


def bind(given: Given) -> None:
    """Listen on a TCP port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()


def send_datagram(given: Given) -> None:
    """Send a UDP packet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", given["other_port"]))


def connect_unix(address: str) -> None:
    """Connect to a UNIX socket; NUL first means an abstract one."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)


def read(path: str) -> None:
    """Read some of a file."""
    with open(path, "rb", buffering=0) as file:
        file.read(64)


def write(path: str) -> None:
    """Make a file with content."""
    with open(path, "wb", buffering=0) as file:
        file.write(b"x")


def build_something(given: Given) -> None:
    """Do all that writing a repository needs, in the incoming folder."""
    root = given["request"]["incoming"]
    os.mkdir(f"{root}/folder")
    write(f"{root}/file")
    os.truncate(f"{root}/file", 0)
    os.symlink("file", f"{root}/link")
    os.rename(f"{root}/file", f"{root}/other")
    read(f"{root}/other")
    os.chmod(f"{root}/other", 0o400)
    os.unlink(f"{root}/link")
    os.rmdir(f"{root}/folder")
    folder = os.open(root, os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def execute(given: Given) -> str:
    """Run a program in a forked process."""
    child = os.fork()
    if not child:
        try:
            os.execve("/bin/true", ["true"], {})  # noqa: S606 (what an attacker would do)
        except OSError as error:
            os._exit(error.errno or 255)
    return errno.errorcode.get(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "done")


def execute_from_memory(given: Given) -> None:
    """Run a program that has no path."""
    os.execve(os.memfd_create("program", 0), ["program"], {})  # noqa: S606 (what an attacker would do)


def fork(given: Given) -> str:
    """Start a second process and wait for it."""
    child = os.fork()
    if not child:
        os._exit(0)
    return "done" if os.waitpid(child, 0)[1] == 0 else "failed"


def allocate(given: Given) -> None:
    """Take 2 GB of memory."""
    bytearray(2 << 30)


def raise_limits(given: Given) -> None:
    """Take every limit back."""
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):
        resource.setrlimit(kind, (resource.RLIM_INFINITY if kind != resource.RLIMIT_NOFILE else 4096,) * 2)


def by_32_bit_table(given: Given) -> str:
    """Ask for the process id by ``int 0x80``, in a forked process, and return the signal that ended it."""
    child = os.fork()
    if not child:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return signal.Signals(-status).name if status < 0 else "done"


ATTEMPTS: dict[str, Callable[[Given], object]] = {
    "connect_allowed": lambda given: connect(given["allowed_port"]),
    "connect_other": lambda given: connect(given["other_port"]),
    "bind": bind,
    "datagram": send_datagram,
    "unix": lambda given: connect_unix(given["unix_path"]),
    "abstract_unix": lambda given: connect_unix("\0" + given["abstract_name"]),
    "socketpair": lambda given: [end.detach() for end in socket.socketpair()],
    "resolve": lambda given: socket.getaddrinfo("localhost", 443),
    "read_passwd": lambda given: read("/etc/passwd"),
    "read_hosts": lambda given: read("/etc/hosts"),
    "read_beside_package": lambda given: read(f"{sys.path[0]}/setup.cfg"),
    "read_other_sandbox": lambda given: read(given["other_file"]),
    "list_parent": lambda given: os.listdir(os.path.dirname(given["request"]["incoming"])),
    "read_own_environment": lambda given: read("/proc/self/environ"),
    "read_parents_environment": lambda given: read(f"/proc/{os.getppid()}/environ"),
    "read_parents_memory": lambda given: read(f"/proc/{os.getppid()}/maps"),
    "write_outside": lambda given: write(given["outside"] + "/new"),
    "remove_outside": lambda given: os.unlink(given["outside"] + "/present"),
    "chmod_then_write_outside": lambda given: write(given["outside"] + "/present"),
    "build": build_something,
    "late_imports": lambda given: [importlib.import_module(name) for name in ("dulwich._pack", "xml.dom.minidom")],
    "execute": execute,
    "execute_from_memory": execute_from_memory,
    "fork": fork,
    "signal_parent": lambda given: os.kill(os.getppid(), 0),
    "trace_parent": lambda given: syscall(101 if seccomp.architecture() is seccomp.X86_64 else 117, 16, os.getppid()),
    "limit_parent": lambda given: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
    "new_session": lambda given: fork_and(os.setsid),
    "allocate": allocate,
    "raise_limits": raise_limits,
    "io_uring": lambda given: syscall(425, 1, bytes(120)),
    "x32": lambda given: syscall(0x40000000 + 39),
    "32_bit": by_32_bit_table,
    "mount": lambda given: syscall(165 if seccomp.architecture() is seccomp.X86_64 else 40, b"x", b"/", b"tmpfs", 0, 0),
    "umask": lambda given: oct(os.umask(0o777)),
    "core_size": lambda given: str(resource.getrlimit(resource.RLIMIT_CORE)[1]),
    "environment": lambda given: ",".join(sorted(os.environ)),
    "folder": lambda given: os.getcwd(),
    "site": lambda given: "loaded" if "site" in sys.modules else "absent",
}


def fork_and(deed: Callable[[], object]) -> str:
    """Return how ``deed`` ends in a forked process, which leads no group yet."""
    child = os.fork()
    if not child:
        try:
            deed()
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    return errno.errorcode.get(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "done")
