"""What an attacker who runs code in a child would try, and what the children must still be able to do.

Each attempt returns normally where it had its effect, returns a short text that says what it found, or raises.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

Given = dict[str, Any]
Attempt = Callable[[Given], object]

_COLUMN = 0 if platform.machine() == "x86_64" else 1
_NUMBERS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clone": (56, 220),
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "process_vm_readv": (310, 270),
    "ptrace": (101, 117),
    "statx": (332, 291),
    "tgkill": (234, 131),
    "userfaultfd": (323, 282),
}
_CLONE_NEWUSER = 0x10000000
_IPPROTO_MPTCP = 262
_MSG_FASTOPEN = 0x20000000
_TCP_FASTOPEN_CONNECT = 30
_PTRACE_SEIZE = 0x4206
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_O_TMPFILE = 0o20200000
_F_SETSIG = 10
_ANY = 0
"""Descriptor beside an absolute path, which needs none: Python then makes the call that takes one."""


def syscall(name: str, *arguments: object) -> int:
    """Make a system call and return what it returns."""
    return called(libc.syscall(ctypes.c_long(_NUMBERS[name][_COLUMN]), *arguments))


def called(result: int) -> int:
    """Return the result of a call to libc, or raise its error."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "libc")
    return result


def victim(given: Given, name: str) -> str:
    """Return the path of a file outside that belongs to the child's user, for one attempt alone."""
    return f"{given['victims']}/{name}"


def connect(port: int, *, protocol: int = 0) -> None:
    """Connect to a port of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol) as connection:
        connection.settimeout(5)
        connection.connect(("127.0.0.1", port))


def open_fast(given: Given) -> None:
    """Connect by sending data with the first packet."""
    with socket.socket() as connection:
        connection.sendto(b"x", _MSG_FASTOPEN, ("127.0.0.1", given["other_port"]))


def open_fast_later(given: Given) -> None:
    """Let the next connect wait for the first data."""
    with socket.socket() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN_CONNECT, 1)


def bind(given: Given) -> None:
    """Listen on a TCP port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()


def listen_anywhere(given: Given) -> None:
    """Listen on whatever port the kernel gives, without asking for one."""
    with socket.socket() as listener:
        listener.listen()


def send_datagram(given: Given) -> None:
    """Send a UDP packet to an address of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", given["other_port"]))


def connect_datagram(given: Given) -> None:
    """Send a UDP packet by a connected socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", given["other_port"]))
        sender.send(b"x")


def connect_unix(address: str) -> None:
    """Connect to a UNIX socket; NUL first means an abstract one."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)


def make_socket(family: int, kind: int, protocol: int = 0) -> None:
    """Make a socket."""
    socket.socket(family, kind, protocol).close()


def own_signals_of_pipe(given: Given) -> None:
    """Let the kernel signal the parent when something happens on a socket or pipe."""
    fcntl.fcntl(0, fcntl.F_SETOWN, given["parent"])


def read(path: str) -> None:
    """Read some of a file."""
    with open(path, "rb", buffering=0) as file:
        file.read(64)


def write(path: str) -> None:
    """Make a file with content."""
    with open(path, "wb", buffering=0) as file:
        file.write(b"x")


def new_file(given: Given, name: str) -> int:
    """Return a descriptor of a new file in the incoming directory."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(f"{given['incoming']}/{name}", flags, 0o600)


def build_something(given: Given) -> None:
    """Do all that writing a repository needs, in the incoming directory."""
    root = os.open(given["incoming"], os.O_RDONLY | os.O_DIRECTORY)
    os.mkdir("directory", 0o700, dir_fd=root)
    inner = os.open("directory", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    file = os.open("file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=inner)
    os.write(file, b"content")
    os.pread(file, 4, 3)
    os.fchmod(file, 0o400)
    os.symlink("file", "link", dir_fd=inner)
    os.rename("file", "other", src_dir_fd=inner, dst_dir_fd=inner)
    os.unlink("link", dir_fd=inner)
    os.fchmod(inner, 0o500)
    for descriptor in (file, inner, root):
        os.close(descriptor)


def rename(source: str, target: str) -> None:
    """Move a file."""
    os.rename(source, target, src_dir_fd=_ANY, dst_dir_fd=_ANY)


def special_mode(given: Given) -> None:
    """Make a program that runs as its owner."""
    os.fchmod(new_file(given, "special"), 0o4755)


def special_directory(given: Given) -> None:
    """Make a directory that hands its group on."""
    os.mkdir(f"{given['incoming']}/special-directory", 0o2777, dir_fd=_ANY)


def sparse(given: Given, name: str, change: Callable[[int], object]) -> None:
    """Make a file that is larger than what was written."""
    change(new_file(given, name))


def seek_far(file: int) -> None:
    """Write far behind the end of a file."""
    os.lseek(file, 1 << 30, os.SEEK_SET)
    os.write(file, b"x")


def temporary_file(given: Given) -> None:
    """Make a file without a name."""
    os.close(os.open(given["incoming"], _O_TMPFILE | os.O_RDWR, 0o600))


def name_to_handle(given: Given) -> None:
    """Take a handle of a file, which :manpage:`open_by_handle_at(2)` takes."""
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0) + bytes(128))
    path = given["other_file"].encode()
    called(libc.name_to_handle_at(-100, path, handle, ctypes.byref(ctypes.c_int()), 0))


def watch(given: Given) -> None:
    """Be told what others do in a directory."""
    watcher = called(libc.inotify_init1(0))
    called(libc.inotify_add_watch(watcher, given["outside"].encode(), 0xFFF))
    os.close(watcher)


def execute(given: Given) -> str:
    """Run a program."""
    return here(given, lambda: os.execve("/bin/true", ["true"], {}))  # noqa: S606 (what an attacker would do)


def execute_from_memory(given: Given) -> None:
    """Run a program that has no path."""
    os.execve(os.memfd_create("program", 0), ["program"], {})  # noqa: S606 (what an attacker would do)


def forked(deed: Callable[[], object]) -> str:
    """Return how ``deed`` ends in a forked process, which leads no group."""
    child = os.fork()
    if not child:
        try:
            deed()
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    return ended(child)


def here(given: Given, deed: Callable[[], object]) -> str:
    """Do what a confined process may not, and a process that is not confined in a forked one, since it goes on."""
    if given["role"] == "none":
        return forked(deed)
    deed()
    return "done"


def ended(child: int) -> str:
    """Return how a forked process ended."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return signal.Signals(-status).name if status < 0 else errno.errorcode.get(status, "done")


def thread(given: Given) -> None:
    """Run something in a second thread."""
    started = threading.Thread(target=lambda: None)
    started.start()
    started.join()


def clone(flags: int) -> None:
    """Start a process by the bare call, with flags of one's own."""
    child = syscall("clone", ctypes.c_ulong(flags | signal.SIGCHLD), *[ctypes.c_ulong(0)] * 4)
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def clone3(flags: int) -> None:
    """Start a process by the call whose flags no filter sees."""
    arguments = ctypes.create_string_buffer(struct.pack("=11Q", flags, 0, 0, 0, signal.SIGCHLD, *[0] * 6))
    child = syscall("clone3", arguments, ctypes.c_size_t(88))
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def prctl(option: int, value: int) -> None:
    """Change something about this process."""
    called(libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3))


def allocate(given: Given) -> None:
    """Take 2 GB of memory."""
    bytearray(2 << 30)


def executable_memory(given: Given) -> None:
    """Take memory that code can be written into."""
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def make_executable(given: Given) -> None:
    """Make memory executable afterwards."""
    memory = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    called(libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_EXEC))


def raise_limits(given: Given) -> None:
    """Take every limit back."""
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):
        resource.setrlimit(kind, (resource.RLIM_INFINITY if kind != resource.RLIMIT_NOFILE else 4096,) * 2)


def by_32_bit_table() -> None:
    """Ask for the process id by ``int 0x80``."""
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(MACHINE_CODE)))()


# Made before the child is confined.
MACHINE_CODE = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
MACHINE_CODE.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")

USEFUL: dict[str, Attempt] = {
    "connect_allowed": lambda given: connect(given["allowed_port"]),
    "resolve": lambda given: socket.getaddrinfo("localhost", 443),
    "read_hosts": lambda given: read("/etc/hosts"),
    "build": build_something,
    "fork": lambda given: forked(lambda: None),
    "thread": thread,
    "core_size": lambda given: str(resource.getrlimit(resource.RLIMIT_CORE)[1]),
    "processes": lambda given: str(resource.getrlimit(resource.RLIMIT_NPROC)[1]),
    "environment": lambda given: ",".join(sorted(os.environ)),
    "directory": lambda given: os.getcwd(),
    "site": lambda given: "loaded" if "site" in sys.modules else "absent",
}
"""What a child needs, or says about itself."""

FILES: dict[str, Attempt] = {
    "read_passwd": lambda given: read("/etc/passwd"),
    "read_beside_package": lambda given: read(f"{given['root']}/setup.cfg"),
    "read_package": lambda given: read(f"{given['root']}/coderepos/__init__.py"),
    "read_library": lambda given: read(given["library"]),
    "read_standard_library": lambda given: read(os.__file__),
    "read_other_sandbox": lambda given: read(given["other_file"]),
    "list_parent": lambda given: os.listdir(os.path.dirname(given["incoming"])),
    "read_own_environment": lambda given: read("/proc/self/environ"),
    "read_parents_environment": lambda given: read(f"/proc/{given['parent']}/environ"),
    "read_parents_memory": lambda given: read(f"/proc/{given['parent']}/maps"),
    "write_outside": lambda given: write(given["outside"] + "/new"),
    "write_over": lambda given: write(victim(given, "write_over")),
    "append": lambda given: os.close(os.open(victim(given, "append"), os.O_WRONLY | os.O_APPEND)),
    "truncate": lambda given: os.truncate(victim(given, "truncate"), 0),
    "remove": lambda given: os.unlink(victim(given, "remove"), dir_fd=_ANY),
    "rename": lambda given: rename(victim(given, "rename"), victim(given, "renamed")),
    "steal": lambda given: rename(victim(given, "steal"), f"{given['incoming']}/stolen"),
    "smuggle": lambda given: rename(f"{given['incoming']}/smuggled", victim(given, "smuggle")),
    "link": lambda given: os.link(victim(given, "link"), f"{given['incoming']}/linked"),
    "symlink": lambda given: os.symlink("/etc/passwd", victim(given, "symlinked"), dir_fd=_ANY),
    "make_directory": lambda given: os.mkdir(victim(given, "directory"), dir_fd=_ANY),
    "remove_directory": lambda given: os.rmdir(given["outside"] + "/empty", dir_fd=_ANY),
    "make_pipe": lambda given: os.mkfifo(victim(given, "pipe")),
    "make_pipe_inside": lambda given: os.mkfifo(given["incoming"] + "/pipe"),
    "chmod": lambda given: os.chmod(victim(given, "chmod"), 0o600),
    "chmod_open_device": lambda given: os.fchmod(2, 0o666),
    "write_to_standard_error": lambda given: os.write(2, b"x"),
    "chgrp": lambda given: os.chown(victim(given, "chgrp"), -1, os.getgid()),
    "utime": lambda given: os.utime(victim(given, "utime"), (1, 1)),
    "setxattr": lambda given: os.setxattr(victim(given, "setxattr"), "user.x", b"1"),
    "getxattr": lambda given: os.listxattr(given["other_file"]),
    "stat": lambda given: os.stat(given["other_file"]),
    "readlink": lambda given: os.readlink("/proc/self/exe") and None,
    "statfs": lambda given: os.statvfs("/"),
    "open_path": lambda given: os.close(os.open(given["other_file"], os.O_PATH)),
    "temporary_file": temporary_file,
    "special_mode": special_mode,
    "special_directory": special_directory,
    "sparse_by_truncation": lambda given: sparse(given, "truncated", lambda file: os.ftruncate(file, 1 << 30)),
    "sparse_by_seeking": lambda given: sparse(given, "sought", seek_far),
    "sparse_by_offset": lambda given: sparse(given, "offset", lambda file: os.pwrite(file, b"x", 1 << 30)),
    "sparse_by_reserving": lambda given: sparse(given, "reserved", lambda file: os.posix_fallocate(file, 0, 1 << 20)),
    "name_to_handle": name_to_handle,
    "watch": watch,
    "change_directory": lambda given: os.chdir(given["outside"]),
    "change_root": lambda given: os.chroot("/"),
}
"""Files of others, devices, and what the incoming directory may not get."""

NETWORK: dict[str, Attempt] = {
    "connect_other": lambda given: connect(given["other_port"]),
    "connect_multipath": lambda given: connect(given["other_port"], protocol=_IPPROTO_MPTCP),
    "fast_open": open_fast,
    "fast_open_later": open_fast_later,
    "bind": bind,
    "listen": listen_anywhere,
    "datagram": send_datagram,
    "connected_datagram": connect_datagram,
    "unix": lambda given: connect_unix(given["unix_path"]),
    "abstract_unix": lambda given: connect_unix("\0" + given["abstract_name"]),
    "socketpair": lambda given: [end.detach() for end in socket.socketpair()],
    "netlink": lambda given: make_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "vsock": lambda given: make_socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "packet": lambda given: make_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "raw": lambda given: make_socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "crypto_socket": lambda given: make_socket(socket.AF_ALG, socket.SOCK_SEQPACKET),
}
"""Whom a child might talk to."""

PROCESSES: dict[str, Attempt] = {
    "execute": execute,
    "execute_from_memory": execute_from_memory,
    "signal_parent": lambda given: os.kill(given["parent"], 0),
    "signal_thread": lambda given: syscall("tgkill", given["parent"], given["parent"], 0),
    "signal_by_descriptor": lambda given: syscall(
        "pidfd_send_signal", syscall("pidfd_open", given["parent"], 0), 0, None, 0
    ),
    "signal_by_events": own_signals_of_pipe,
    "choose_signal": lambda given: fcntl.fcntl(0, _F_SETSIG, signal.SIGUSR1),
    "trace_parent": lambda given: syscall("ptrace", _PTRACE_SEIZE, given["parent"], None, None),
    "read_memory_of_parent": lambda given: syscall("process_vm_readv", given["parent"], None, 0, None, 0, 0),
    "compare_with_parent": lambda given: syscall("kcmp", given["parent"], os.getpid(), 1, 0, 0),
    "limit_parent": lambda given: resource.prlimit(given["parent"], resource.RLIMIT_NOFILE),
    "slow_parent": lambda given: os.setpriority(os.PRIO_PROCESS, given["parent"], given["parents_priority"]),
    "pin_parent": lambda given: os.sched_setaffinity(given["parent"], given["parents_processors"]),
    "look_at_processors_of_parent": lambda given: os.sched_getaffinity(given["parent"]),
    "schedule_parent": lambda given: os.sched_setscheduler(given["parent"], os.SCHED_OTHER, os.sched_param(0)),
    "starve_disk_of_parent": lambda given: syscall("ioprio_set", 1, given["parent"], 0),
    "new_session": lambda given: forked(os.setsid),
    "new_group": lambda given: forked(lambda: os.setpgid(0, 0)),
    "outlive_parent": lambda given: prctl(_PR_SET_PDEATHSIG, 0),
    "be_dumpable": lambda given: prctl(_PR_SET_DUMPABLE, 1),
    "user_namespace": lambda given: here(given, lambda: called(libc.unshare(_CLONE_NEWUSER))),
    "user_namespace_by_clone": lambda given: clone(_CLONE_NEWUSER),
    "user_namespace_by_clone3": lambda given: clone3(_CLONE_NEWUSER),
    "fork_by_clone3": lambda given: clone3(0),
    "sibling": lambda given: clone(0x8000),  # CLONE_PARENT
    "allocate": allocate,
    "raise_limits": raise_limits,
}
"""Other processes, and what bounds this one."""

KERNEL: dict[str, Attempt] = {
    "executable_memory": executable_memory,
    "make_executable": make_executable,
    "memory_file": lambda given: os.close(os.memfd_create("x")),
    "secret_memory": lambda given: os.close(syscall("memfd_secret", 0)),
    "io_uring": lambda given: os.close(syscall("io_uring_setup", 1, bytes(120))),
    "bpf": lambda given: os.close(syscall("bpf", 0, struct.pack("=4I", 2, 4, 4, 1) + bytes(104), 120)),
    "perf": lambda given: os.close(
        syscall("perf_event_open", struct.pack("=2I", 1, 112) + bytes(104), 0, ctypes.c_int(-1), ctypes.c_int(-1), 0)
    ),
    "userfaultfd": lambda given: os.close(syscall("userfaultfd", 1)),
    "key": lambda given: syscall("add_key", b"user", b"x", b"x", 1, ctypes.c_int(-2)),
    "keyring": lambda given: syscall("keyctl", 0, ctypes.c_int(-2), 1),
    "shared_memory": lambda given: called(libc.shmctl(called(libc.shmget(0, 4096, 0o1600)), 0, None)),
    "message_queue": lambda given: called(libc.msgctl(called(libc.msgget(0, 0o1600)), 0, None)),
    "semaphores": lambda given: called(libc.semctl(called(libc.semget(0, 1, 0o1600)), 0, 0)),
    "mount": lambda given: syscall("mount", b"x", given["outside"].encode(), b"tmpfs", 0, None),
    "open_tree": lambda given: os.close(syscall("open_tree", -100, b"/", 1)),
    "personality": lambda given: called(libc.personality(0x0040000)),
    "x32": lambda given: called(libc.syscall(ctypes.c_long(0x40000000 + 39))),
    "32_bit": lambda given: forked(by_32_bit_table),
    "statx": lambda given: syscall("statx", -100, b"/", 0, 0x7FF, ctypes.create_string_buffer(256)),
}
"""Ways around the filter, and more of the kernel than any child needs."""

ATTEMPTS = USEFUL | FILES | NETWORK | PROCESSES | KERNEL
HARMFUL = FILES | NETWORK | PROCESSES | KERNEL
