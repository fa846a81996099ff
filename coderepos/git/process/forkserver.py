"""The process that forks, kills and reaps the children; it holds nothing that is worth stealing.

It has imported all that they use (:mod:`coderepos.git.preload`), is the other end of
:mod:`coderepos.git.process.spawner`, and has one thread. A datagram on its control socket asks for a child: the name of
the module to run, with four descriptors. These are a reply socket of the child's own, its standard input, its standard
output, and its pack pipe. On the reply socket the server says in JSON

- ``pid``: it was forked,
- ``is_killed``: its process group was killed, because the host shut the reply socket down,
- ``exit_status`` and what it used: it ended, and what was left of its process group was killed.

The server closes the reply socket once nothing is left that the child started, in its group or out of it. Requests of
the host go to the child by its standard input; nothing of them comes through here.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Final, NoReturn

from coderepos.git.confinement.linux import close_to_others, die_with_parent, prctl
from coderepos.git.process.fork import CRASHES, Forked

CONTROL_FD: Final = 3
"""Descriptor of the control socket."""

PACK_FD: Final = 3
"""Descriptor under which every child finds its end of the pack pipe."""

MODULE_BYTES: Final = 256
"""Longest name of a module."""

FORK_FAILED: Final = 71
"""Exit status of a child that could not be forked: ``EX_OSERR``."""

SECOND_CRASHED: Final = 70
"""Exit status of a child whose second process crashed: ``EX_SOFTWARE``."""

_NUMBERS: Final = (0, 1, PACK_FD)
"""Descriptors under which a child finds what was passed for it."""

_DESCRIPTORS: Final = 1 + len(_NUMBERS)
_OPEN_FILES: Final = 4_096
_LAST_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.002
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36


def serve(host_pid: int, preloaded: str, *, idle_seconds: float, age_seconds: float) -> NoReturn:
    """Fork children until the host closes the control socket or ends, or has asked for nothing for some time.

    :param host_pid: process id of the host.
    :param preloaded: module that imports what the children use; its ``refresh()`` is called before each fork.
    :param idle_seconds: how long to wait for a request while there is no child.
    :param age_seconds: how long to take requests at all.
    """
    _close_inherited()
    os.chdir("/")
    # No descriptor is ever above this, so a child can close all of them.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
    # At the lowest level of isolation, one child would otherwise find the token of another in its memory.
    close_to_others()
    # Whatever a child started is reaped here when the child is gone, so that the end of its group can be seen.
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    module = import_module(preloaded)
    # Children make no cycles that matter, and hundreds of thousands of objects, which make each collection slow. It
    # would also write to the pages that all of them share.
    gc.collect()
    gc.freeze()
    gc.disable()
    _ForkServer(socket.socket(fileno=CONTROL_FD), host_pid, module, idle_seconds, age_seconds).run()
    os._exit(0)


class _Child:
    """A forked process, until the last one of its group is gone."""

    def __init__(self, pid: int, reply: socket.socket) -> None:
        self.pid: Final = pid
        self.reply: Final = reply
        self.has_ended = False

    def kill(self) -> None:
        """Kill it and its group; only while it is not reaped, since its id may be a stranger's after that."""
        # It may not have made its group yet.
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                kill(self.pid, signal.SIGKILL)

    def is_gone(self) -> bool:
        """Return whether no process of its group is left."""
        try:
            os.waitid(os.P_PGID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return False


class _ForkServer:
    def __init__(
        self, control: socket.socket, host_pid: int, preloaded: ModuleType, idle_seconds: float, age_seconds: float
    ) -> None:
        self._control: Final = control
        self._preloaded: Final = preloaded
        self._idle_seconds: Final = idle_seconds
        self._retires_at: Final = time.monotonic() + age_seconds
        self._takes_requests = True
        self._children: Final[dict[int, _Child]] = {}
        self._by_reply_fd: Final[dict[int, _Child]] = {}
        self._poll: Final = select.poll()
        self._wakeup, wakeup_writer = socket.socketpair()
        self._wakeup.setblocking(False)  # noqa: FBT003 (positional only)
        wakeup_writer.setblocking(False)  # noqa: FBT003 (positional only)
        self._wakeup_writer: Final = wakeup_writer
        signal.set_wakeup_fd(wakeup_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._host_fd: Final = _watch_host(host_pid)
        for descriptor in (control.fileno(), self._wakeup.fileno(), self._host_fd):
            if descriptor is not None:
                self._poll.register(descriptor, select.POLLIN)

    def run(self) -> None:
        """Serve until there is nothing more to do."""
        while self._reap() or self._takes_requests:
            ready = self._poll.poll(None if self._children else self._idle_seconds * 1_000)
            if (not ready and not self._children) or time.monotonic() > self._retires_at:
                self._retire()
            for descriptor, _event in ready:
                if descriptor == self._host_fd:
                    return self._kill_all()
                if descriptor == self._wakeup.fileno():
                    self._wakeup.recv(1 << 12)
                elif child := self._by_reply_fd.get(descriptor):
                    self._poll.unregister(descriptor)
                    self._kill(child)
                elif self._takes_requests and not self._receive():
                    return self._kill_all()
        return None

    def _receive(self) -> bool:
        """Take one request; return whether there was one."""
        name, descriptors, _flags, _address = socket.recv_fds(self._control, MODULE_BYTES, _DESCRIPTORS)
        if descriptors:
            reply_fd, *passed = descriptors
            self._fork(name.decode(), passed, socket.socket(fileno=reply_fd))
            for descriptor in passed:
                os.close(descriptor)
        return bool(name)

    def _fork(self, module: str, descriptors: list[int], reply: socket.socket) -> None:
        reply.setblocking(False)  # noqa: FBT003 (positional only)
        parent = os.getpid()
        try:
            if len(descriptors) != len(_NUMBERS):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._preloaded.refresh()
            pid = os.fork()
        except OSError as error:
            _send(reply, {"exit_status": FORK_FAILED, "errno": error.errno})
            _end(reply)
            return
        if not pid:
            _run(module, descriptors, parent)
        child = _Child(pid, reply)
        self._children[pid] = self._by_reply_fd[reply.fileno()] = child
        self._poll.register(reply, select.POLLIN)
        _send(reply, {"pid": pid})

    def _kill(self, child: _Child) -> None:
        if not child.has_ended:
            child.kill()
        _send(child.reply, {"is_killed": True})

    def _reap(self) -> bool:
        """Reap all that has ended, say of which children nothing is left, and return whether there are others."""
        with suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                child = self._children.get(ended.si_pid)
                if child:
                    child.kill()
                _, wait_status, used = os.wait4(ended.si_pid, 0)
                status = os.waitstatus_to_exitcode(wait_status)
                if child:
                    child.has_ended = True
                    self._report_exit(child, status, used)
                if -status in CRASHES or status == SECOND_CRASHED:
                    self._retire()
        exited = [one for one in self._children.values() if one.has_ended]
        is_clean = not exited or not self._kill_strays()
        for gone in [one for one in exited if is_clean and one.is_gone()]:
            del self._children[gone.pid], self._by_reply_fd[gone.reply.fileno()]
            with suppress(KeyError):
                self._poll.unregister(gone.reply)
            _end(gone.reply)
        return bool(self._children)

    def _kill_strays(self) -> bool:
        """Kill what children started and put out of their groups; return whether there was any.

        Its parent is this process once the child has ended, so it is found as long as there is ``/proc``.
        """
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as below:
                strays = {int(pid) for pid in below.read().split()} - self._children.keys()
        except OSError:
            return False
        for pid in strays:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return bool(strays)

    def _report_exit(self, child: _Child, status: int, used: resource.struct_rusage) -> None:
        _send(
            child.reply,
            {
                "exit_status": status,
                "cpu_seconds": used.ru_utime + used.ru_stime,
                "peak_bytes": used.ru_maxrss * 1_024,
                "server_cpu_seconds": time.process_time(),
            },
        )

    def _retire(self) -> None:
        """Take no more requests but those that were sent already; end with the last child."""
        if not self._takes_requests:
            return
        # From now on the host's attempt to send fails, and it starts another server. What it sent can still be read.
        self._control.shutdown(socket.SHUT_RD)
        while self._receive():
            continue
        self._takes_requests = False
        self._poll.unregister(self._control)
        self._control.close()

    def _kill_all(self) -> None:
        for child in self._children.values():
            if not child.has_ended:
                child.kill()
        deadline = time.monotonic() + _LAST_SECONDS
        while self._reap() and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)


def _run(module: str, descriptors: list[int], parent: int) -> NoReturn:
    """Be the child: run the module's ``main`` and end."""
    status = 1
    try:
        die_with_parent(parent)
        os.setsid()
        # What ps(1) shows, of which the kernel takes 15 bytes.
        prctl(_PR_SET_NAME, b"coderepos-" + module.rpartition(".")[2].encode())
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Received descriptors are above all of these.
        for descriptor, number in zip(descriptors, _NUMBERS, strict=True):
            os.dup2(descriptor, number)
        os.closerange(PACK_FD + 1, _OPEN_FILES)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (to the end of the process)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        status = int(import_module(module).main(PACK_FD))
    finally:
        # Neither the loop of the server nor anything registered for its end may run here.
        os._exit(SECOND_CRASHED if Forked.any_crashed else status)


def _send(reply: socket.socket, message: dict[str, object]) -> None:
    # Nobody may listen any more.
    with suppress(OSError):
        reply.send(json.dumps(message).encode())


def _end(reply: socket.socket) -> None:
    """Let the host see the end of a reply socket, of which a process that it forked may hold a copy."""
    with suppress(OSError):
        reply.shutdown(socket.SHUT_RDWR)
    reply.close()


def _watch_host(pid: int) -> int | None:
    """Return a descriptor that can be read once the host ends, where the kernel has such.

    A process that the host forked may hold a copy of the control socket, which then stays open.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        descriptor = None
    if os.getppid() != pid:
        os._exit(0)
    return descriptor


def _close_inherited() -> None:
    """Close what a library of the host left inheritable."""
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        os.closerange(CONTROL_FD + 1, _OPEN_FILES)
        return
    for descriptor in descriptors:
        if descriptor > CONTROL_FD:
            with suppress(OSError):
                os.close(descriptor)
