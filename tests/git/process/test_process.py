"""Processes by system calls alone: what they inherit, and that none is left, whatever happens on the way."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from coderepos.exceptions import InternalError
from coderepos.git.clone import CloneRequest, clone
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.probe import probe
from coderepos.git.process import child as child_module
from coderepos.git.process import child_handle, signal_mask, spawner
from coderepos.git.process.child import Child, starting
from coderepos.git.wire import dump_line
from tests.support.processes import fork_server_pid, forked_pid, left_over, open_descriptors, stop_fork_server
from tests.support.servers.hostile import HostileServer
from tests.support.users import forked

pytestmark = pytest.mark.usefixtures("no_children_left")


class QueueTimeout(SystemExit):
    """What a queue raises from its alarm signal."""


def scripted(*steps: list[Any]) -> bytes:
    return dump_line({"ref": json.dumps(steps)})


def started(nowhere_fd: int) -> Child:
    with starting():
        return Child("fetch", "tests.support.programs.scripted", nowhere_fd)


def said(*steps: list[Any]) -> list[dict[str, Any]]:
    """Return all that a child says."""
    with open(os.devnull, "wb") as nowhere, started(nowhere.fileno()) as child:
        child.send(scripted(*steps), last=True)
        heard: list[dict[str, Any]] = []
        while not child.finished:
            heard += child.read_events()
        return heard


def test_a_child_inherits_its_three_descriptors() -> None:
    """What a library of the host left inheritable stays here; standard error leads nowhere."""
    open_ends = os.pipe()
    for end in open_ends:
        os.set_inheritable(end, True)  # noqa: FBT003  positional only

    (event,) = said(["descriptors"])

    for end in open_ends:
        os.close(end)
    assert sorted(event["descriptors"]) == ["0", "1", "2", "3"]
    assert event["descriptors"]["2"] == "/dev/null"
    assert event["directory"] == "/"


@pytest.mark.parametrize("closed", [(0,), (0, 1), (0, 1, 2), (1, 2)])
def test_a_host_without_standard_streams(closed: tuple[int, ...]) -> None:
    """A daemon that closed its own streams gets pipes with their numbers, which are not mixed up."""

    def lonely() -> list[str]:
        for number in closed:
            os.close(number)
        (event,) = said(["descriptors"])
        return sorted(event["descriptors"])

    assert forked(lonely) == ["0", "1", "2", "3"]


def test_a_child_starts_with_no_blocked_and_no_ignored_signal() -> None:
    """The mask during its start is not the child's, nor is what the host ignores."""

    def ignoring() -> dict[str, Any]:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        (event,) = said(["signals"])
        return event

    event = forked(ignoring)

    assert int(event["blocked"], 16) == 0
    assert not int(event["ignored"], 16) & 1 << (signal.SIGCHLD - 1)


def test_what_a_handler_raises_while_a_child_ends() -> None:
    """A queue's time-out in the last wait goes through after the child was reaped and its pipes were closed."""

    def ring(number: int, frame: object) -> None:
        raise QueueTimeout

    before = open_descriptors()
    signal.signal(signal.SIGALRM, ring)
    with open(os.devnull, "wb") as nowhere:
        child = started(nowhere.fileno())
        forked_pid(child)
        server = fork_server_pid()
        assert server
        os.kill(server, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (server, signal.SIGCONT)).start()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(QueueTimeout):
            child.end()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    assert not left_over(set())
    assert open_descriptors() == before


def interrupted_at(stop: int, call: Callable[[], object]) -> bool:
    """Call while a signal arrives at a line of ours, whose handler raises; return whether there are so many lines."""
    files = {module.__file__ for module in (child_module, child_handle, signal_mask, spawner, contextlib)}
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            lines += 1
            if lines == stop:
                os.kill(os.getpid(), signal.SIGALRM)
        return trace

    before_trace = sys.gettrace()
    with suppress(QueueTimeout):
        try:
            sys.settrace(trace)
            call()
            # From Python 3.12 on handlers may run some lines later; this calls those that wait.
            signal.pthread_sigmask(signal.SIG_BLOCK, ())
        finally:
            sys.settrace(before_trace)
    return lines >= stop


def lines_that_leave_nothing(interrupted: Callable[[int], bool], *, step: int = 1, most: int = 1_000) -> int:
    """Interrupt something at one line after the other, and return at how many nothing was left behind."""

    def ring(number: int, frame: object) -> None:
        raise QueueTimeout

    def count() -> int:
        signal.signal(signal.SIGALRM, ring)
        gc.collect()
        before = open_descriptors()
        stop = 1
        while stop < most and interrupted(stop):
            deadline = time.monotonic() + 5
            while left_over(set()) or open_descriptors() != before:
                # Where the signal came when nobody could end the child, it ends with the object that stands for it.
                assert time.monotonic() < deadline, stop
                gc.collect()
            stop += step
        return stop

    # In a process of its own: CPython 3.11 may go on handling an exception that was raised at such a line.
    return forked(count)


@pytest.mark.parametrize("is_running", [False, True])
def test_what_a_handler_raises_at_any_line_of_an_end(*, is_running: bool) -> None:
    """Signals arrive between two lines too: none of them leaves a process or a pipe."""

    def ended_at(stop: int) -> bool:
        child = started(nowhere.fileno())
        pid = forked_pid(child)
        if not is_running:
            # Then there is nothing to wait for, and few lines come.
            os.kill(pid, signal.SIGKILL)
            child.exit_status(within_seconds=10)
        return interrupted_at(stop, child.end)

    with open(os.devnull, "wb") as nowhere:
        assert lines_that_leave_nothing(ended_at) > 30


@pytest.mark.parametrize("is_first", [False, True])
def test_what_a_handler_raises_at_any_line_of_a_start(*, is_first: bool) -> None:
    """A child that was started has somebody to end it before anything is raised, or ends by itself."""

    def start() -> None:
        with ExitStack() as running, starting():
            running.enter_context(Child("fetch", "tests.support.programs.scripted", nowhere.fileno()))

    def started_at(stop: int) -> bool:
        if is_first:
            stop_fork_server()
        return interrupted_at(stop, start)

    with open(os.devnull, "wb") as nowhere:
        # A first one waits for its fork server, and passes many lines meanwhile.
        assert lines_that_leave_nothing(started_at, step=13 if is_first else 1, most=220) > 100


@pytest.mark.parametrize("room", range(9))
def test_a_host_without_descriptors(room: int) -> None:
    """However few are left, probe and clone end in an error of ours and leave none open."""
    request = CloneRequest(
        url="https://git.example/r.git",
        credentials=None,
        ref="",
        depth=None,
        policy=NetworkPolicy(),
        limits=Limits(),
        min_level=1,
        group_readable=False,
    )

    def crowded() -> bool:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        taken: list[int] = []
        with suppress(OSError):
            while len(taken) < 100:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for descriptor in taken[:room]:
            os.close(descriptor)
        for start in (
            lambda: probe(request, seconds=1),
            lambda: clone(request, incoming=Path("/nowhere"), on_progress=lambda _: None),
        ):
            with pytest.raises(InternalError):
                start()
        stop_fork_server()
        for descriptor in taken[:room]:
            assert os.open(os.devnull, os.O_RDONLY) == descriptor
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return True

    assert forked(crowded)


GREEN = """\
import sys
sys.path.insert(0, {root!r})
from gevent import monkey; monkey.patch_all()
import os, signal, time, gevent
from coderepos.git.process import spawner
from coderepos.git.process.child import Child, starting

nowhere = os.open(os.devnull, os.O_WRONLY)
masks = set()

def child():
    for _ in range(5):
        with starting():
            one = Child("fetch", "tests.support.programs.scripted", nowhere)
        time.sleep(0.01)
        one.end()

def watch():
    while working:
        masks.add(frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        time.sleep(0)

working = True
watching = gevent.spawn(watch)
started = time.monotonic()
gevent.joinall([gevent.spawn(child) for _ in range(3)], raise_error=True)
seconds = time.monotonic() - started
working = False
watching.join()
assert masks == {{frozenset()}}, masks
spawner._registry.dismiss()
while not spawner.reap():
    time.sleep(0.01)
try:
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
except ChildProcessError:
    print("none left")
"""


def test_green_threads_never_see_a_blocked_signal() -> None:
    """Under gevent's replacements no other green thread runs while signals are blocked, and no zombie stays.

    https://github.com/benoitc/gunicorn/issues/418
    """
    code = GREEN.format(root=spawner.ROOT)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)

    assert (done.stdout, done.returncode) == ("none left\n", 0), done.stderr


GREEN_PROBE = """\
import sys
sys.path.insert(0, {root!r})
from gevent import monkey; monkey.patch_all()
import time, gevent
from coderepos.exceptions import RemoteTimeout
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.clone import CloneRequest
from coderepos.git.probe import probe

host = sys.argv[1]
policy = NetworkPolicy(private_hosts=(host,), insecure_http_hosts=(host,))
request = CloneRequest(url=f"http://{{host}}/r.git", credentials=None, ref="", depth=None, policy=policy,
                       limits=Limits(), min_level=1, group_readable=False)

def ask():
    try:
        probe(request, seconds=1)
    except RemoteTimeout:
        return time.monotonic()

started = time.monotonic()
probes = [gevent.spawn(ask) for _ in range(4)]
ticks = 0
while not all(one.ready() for one in probes):
    time.sleep(0.01)
    ticks += 1
assert ticks > 30, ticks
assert max(one.get() for one in probes) - started < 3
print("done")
"""


def test_green_threads_run_while_a_probe_waits() -> None:
    """Under gevent several probes of a silent host take as long as one, and others are served meanwhile."""

    def silence(connection: socket.socket, stopping: threading.Event) -> None:
        stopping.wait(20)

    with HostileServer(greet=silence) as server:
        code = GREEN_PROBE.format(root=spawner.ROOT)
        done = subprocess.run(
            [sys.executable, "-c", code, server.host], capture_output=True, text=True, timeout=30, check=False
        )

    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
