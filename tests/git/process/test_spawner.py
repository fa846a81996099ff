"""The fork server from the host's side: one for each process, which comes and goes as it is needed."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from coderepos.exceptions import InternalError
from coderepos.git.clone import ChildModules, CloneRequest, clone
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.process import child as child_module
from coderepos.git.process import child_handle, spawner
from coderepos.git.process.child import Child, starting
from coderepos.git.wire import dump_line
from tests.support.processes import (
    adopt_orphans,
    descendants,
    fork_server_pid,
    forked_pid,
    left_over,
    open_descriptors,
    stop_fork_server,
)
from tests.support.programs.scripted import STARTED
from tests.support.users import forked

pytestmark = pytest.mark.usefixtures("no_children_left")

SCRIPTED = "tests.support.programs.scripted"
SOON_SECONDS = 10

MORE = 40
"""More requests than fit on the way to a fork server that is frozen."""


@contextmanager
def playing(*steps: list[Any]) -> Iterator[Child]:
    """Yield a child that plays a script."""
    with open(os.devnull, "wb") as nowhere, starting():
        child = Child("fetch", SCRIPTED, nowhere.fileno())
    with child:
        child.send(dump_line({"ref": json.dumps(steps)}), last=True)
        yield child


def events_of(child: Child) -> list[dict[str, Any]]:
    """Return all that a child says until it ends."""
    heard: list[dict[str, Any]] = []
    while not child.finished:
        child.exit_status()
        child.flush()
        waiting = select.poll()
        waiting.register(child.events_fd, select.POLLIN)
        waiting.poll(10)
        heard += child.read_events()
    return heard


def said(*steps: list[Any]) -> list[dict[str, Any]]:
    """Return all that a child says."""
    with playing(*steps) as child:
        return events_of(child)


def running_server() -> int:
    """Return the process id of this process's fork server, which serves."""
    assert said(["say", {"event": "ready"}]) == [{"event": "ready"}]
    server = fork_server_pid()
    assert server
    return server


def frozen_server() -> int:
    """Return the process id of this process's fork server, which is stopped and has room for few requests."""
    server = running_server()
    assert spawner._registry.spawner
    spawner._registry.spawner.control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    os.kill(server, signal.SIGSTOP)
    return server


def is_gone(pid: int) -> bool:
    """Return whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for(is_true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + SOON_SECONDS
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_fork_server_forks_all_children() -> None:
    """It stays between children, and all of them are its own."""
    server = running_server()

    with playing(["sleep", 60]) as one, playing(["sleep", 60]) as other:
        parents = {process.pid: process.parent for process in descendants(server).values()}
        assert {forked_pid(one), forked_pid(other)} <= descendants(server).keys()
        assert set(parents.values()) <= {server}

    assert running_server() == server


def test_requests_of_threads_do_not_mix() -> None:
    """Each of many threads hears its own child, and how that one ended."""

    def ask(number: int) -> tuple[list[dict[str, Any]], int | None]:
        with playing(["say", {"number": number}], ["exit", number]) as child:
            return events_of(child), child.exit_status(within_seconds=SOON_SECONDS)

    stop_fork_server()  # which of the threads starts it is part of the race
    with ThreadPoolExecutor(12) as callers:
        answers = list(callers.map(ask, range(48)))

    assert answers == [([{"number": number}], number) for number in range(48)]


def test_more_requests_than_the_socket_has_room_for() -> None:
    """Children that cannot be asked for yet are asked for later, and none is lost."""
    server = frozen_server()
    with ExitStack() as running:
        children = [running.enter_context(playing(["say", {"number": number}])) for number in range(MORE)]
        assert any(child.is_pending for child in children)
        os.kill(server, signal.SIGCONT)
        assert [events_of(child) for child in children] == [[{"number": number}] for number in range(MORE)]
    assert fork_server_pid() == server


def test_a_child_that_was_never_asked_for_ends_at_once() -> None:
    """It leaves no descriptor, and nobody is waited for."""
    server = frozen_server()
    before = open_descriptors()
    with ExitStack() as running:
        children = [running.enter_context(playing(["sleep", 60])) for _ in range(MORE)]
        (*_, last) = children
        assert last.is_pending
        began = time.monotonic()
        last.end()
        assert time.monotonic() - began < 0.5
        assert last.is_gone
        os.kill(server, signal.SIGCONT)
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("step", "status"),
    [(["exit", 0], 0), (["exit", 7], 7), (["die", signal.SIGKILL], -9), (["die", signal.SIGXCPU], -signal.SIGXCPU)],
)
def test_exit_statuses_arrive(step: list[Any], status: int) -> None:
    """How a child ended is told, with the processor time and the memory that it took."""
    with playing(step) as child:
        assert child.exit_status(within_seconds=SOON_SECONDS) == status
        assert 0 < child.usage["cpu_seconds"] < 1
        assert 10**6 < child.usage["peak_bytes"] < 10**8
        wait_for(lambda: child.exit_status() is not None and child.is_gone)


def test_an_exception_of_the_program_is_a_failure() -> None:
    """A child whose program raises ends with status 1, and never goes on as a second fork server."""
    server = running_server()
    with playing(["no such step"]) as child:
        assert child.exit_status(within_seconds=SOON_SECONDS) == 1
    assert running_server() == server
    assert not descendants(server)


@contextmanager
def with_copies_in_a_fork(*steps: list[Any]) -> Iterator[Child]:
    """Yield a child that another process has all descriptors of: one that was forked before it could be asked for."""
    with ExitStack() as running:
        # While this thread has the turn, nobody can be asked.
        child = spawner._in_turn(lambda _: running.enter_context(playing(*steps)), otherwise=None)
        assert child
        assert child.is_pending
        holder = os.fork()
        if not holder:
            signal.pause()
            os._exit(0)
        try:
            yield child
        finally:
            os.kill(holder, signal.SIGKILL)
            os.waitpid(holder, 0)


def test_a_fork_of_the_host_with_copies_hides_no_end_of_a_child() -> None:
    """Another thread of the host may fork at any time."""
    running_server()
    with with_copies_in_a_fork(["exit", 7]) as child:
        assert child.exit_status(within_seconds=SOON_SECONDS) == 7
        wait_for(lambda: child.exit_status() is not None and child.is_gone)


def test_a_fork_of_the_host_with_copies_hides_no_end_of_a_fork_server() -> None:
    """A child that was killed with it is not waited for."""
    server = running_server()
    with with_copies_in_a_fork(["sleep", 60]) as child:
        forked_pid(child)
        os.kill(server, signal.SIGKILL)
        assert child.exit_status(within_seconds=SOON_SECONDS) == -signal.SIGKILL
        assert not child.is_gone


@pytest.mark.parametrize("ends_itself", [False, True])
def test_what_left_the_group_of_a_child_is_killed_too(*, ends_itself: bool) -> None:
    """A process that put itself out of reach of a kill of the group is gone before the child counts as gone."""
    with playing(["escaping_process"], ["exit", 0] if ends_itself else ["sleep", 60]) as child:
        wait_for(lambda: bool(child.exit_status() is not None or select.select([child.events_fd], [], [], 0)[0]))
        (event,) = child.read_events()
    assert child.is_gone
    assert all(map(is_gone, event["escaped"]))
    assert not left_over(set())


def test_a_fork_of_the_host_has_a_fork_server_of_its_own() -> None:
    """It inherits no way to its parent's, and neither disturbs the other."""
    server = running_server()
    control_fd = spawner._registry.spawner and spawner._registry.spawner.control.fileno()
    assert control_fd

    def in_fork() -> tuple[bool, int]:
        found = []
        for name in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # the one that listed them
                found.append(os.readlink(f"/proc/self/fd/{name}"))
        return link in found, running_server()

    link = os.readlink(f"/proc/self/fd/{control_fd}")
    inherits, other = forked(in_fork)

    assert not inherits
    assert other != server
    assert running_server() == server
    wait_for(lambda: is_gone(other))


def test_a_fork_of_the_host_does_not_end_its_parents_children() -> None:
    """What unwinds in the forked process closes its copies, and nothing else."""
    with playing(["sleep", 60]) as child:
        pid = forked_pid(child)

        def in_fork() -> bool:
            child.end()
            return True

        assert forked(in_fork)
        time.sleep(0.1)
        assert child.exit_status() is None
        assert not is_gone(pid)


HOST = """\
import ctypes, os, sys, time
sys.path.insert(0, sys.argv[1])
from tests.git.process.test_spawner import forked_pid, playing, running_server
server = running_server()
with playing(["second_process"], ["sleep", 60]) as child:
    pid = forked_pid(child)
    # Not by os.fork(), which would close the copy of the socket.
    if not (copy := ctypes.CDLL(None).fork()):
        time.sleep(60)
    print(server, pid, copy, flush=True)
    time.sleep(60)
"""


def test_a_host_that_is_killed_takes_all_along() -> None:
    """The fork server and its children end with it, though a fork of it holds copies of the sockets."""
    adopt_orphans(adopt=True)
    with subprocess.Popen([sys.executable, "-c", HOST, spawner.ROOT], stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        server, child, copy = map(int, host.stdout.readline().split())
        below = {pid for pid in descendants(host.pid) if pid != copy}
        assert {server, child} <= below
        host.kill()
        host.wait()
    wait_for(lambda: all(map(is_gone, below)))

    assert not is_gone(copy)
    os.kill(copy, signal.SIGKILL)
    wait_for(lambda: is_gone(copy))


def test_an_idle_fork_server_ends_and_another_one_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while without children it is gone; the next request does not notice."""
    stop_fork_server()
    monkeypatch.setattr(spawner, "IDLE_SECONDS", 0.2)
    server = running_server()
    with playing(["sleep", 0.5], ["say", {"event": "done"}]) as child:
        assert events_of(child) == [{"event": "done"}]
        assert not is_gone(server), "not idle"
    wait_for(lambda: is_gone(server))

    assert running_server() != server
    assert is_gone(server)
    stop_fork_server()


def test_an_old_fork_server_takes_no_more_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is never idle is followed by another one, and lives until its last child has ended."""
    stop_fork_server()
    monkeypatch.setattr(spawner, "AGE_SECONDS", 0.0)
    with playing(["say", {"event": "ready"}], ["sleep", 60]) as child:
        old = fork_server_pid()
        assert old
        while not child.read_events():
            time.sleep(0.005)
        wait_for(lambda: running_server() != old)
        assert not is_gone(old)
        assert child.exit_status() is None
    wait_for(lambda: is_gone(old))
    stop_fork_server()


def test_no_request_is_lost_at_the_end_of_an_idle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a request comes around the end of the fork server, one of two serves it."""
    stop_fork_server()
    monkeypatch.setattr(spawner, "IDLE_SECONDS", 0.02)
    servers = set()
    for number in range(20):
        servers.add(running_server())
        time.sleep(0.018 + number * 0.0002)
    stop_fork_server()

    assert len(servers) > 1


def test_a_fork_server_that_is_killed_takes_its_children_along() -> None:
    """Its children end with it; the host notices, waits for them and starts another one."""
    server = running_server()
    before = open_descriptors()
    with playing(["second_process"], ["say", {"event": "ready"}], ["sleep", 60]) as child:
        while not child.read_events():
            time.sleep(0.005)
        below = descendants(server)
        assert len(below) == 2
        os.kill(server, signal.SIGKILL)

        assert child.exit_status(within_seconds=SOON_SECONDS) == -signal.SIGKILL
        assert child.describe_exit() == "killed with its fork server, whose exit status was -9"
    assert not child.is_gone, "nobody knows for certain"
    assert open_descriptors() == before
    assert all(map(is_gone, below))
    assert running_server() != server


def test_a_clone_whose_fork_server_is_killed_is_an_error_of_ours(tmp_path: Path, caplog: Any) -> None:
    """It fails like one whose child is lost, says so in the log, and the next one runs."""
    (tmp_path / "script").write_text(json.dumps([STARTED, ["sleep", 60]]))
    request = CloneRequest(
        url="https://git.example/r.git",
        credentials=None,
        ref=json.dumps([STARTED, ["sleep", 60]]),
        depth=None,
        policy=NetworkPolicy(),
        limits=Limits(),
        min_level=1,
        group_readable=False,
    )
    server = running_server()
    timer = threading.Timer(0.3, os.kill, (server, signal.SIGKILL))
    timer.start()
    with pytest.raises(InternalError):
        clone(
            request, incoming=tmp_path, on_progress=lambda _: None, modules=ChildModules(fetch=SCRIPTED, build=SCRIPTED)
        )

    assert "killed with its fork server, whose exit status was -9" in caplog.text
    assert running_server() != server


def test_a_frozen_fork_server_is_replaced_when_it_does_not_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host does not wait for it for ever: it is killed, and the next request is served."""
    monkeypatch.setattr(child_handle, "START_SECONDS", 2)
    server = running_server()
    os.kill(server, signal.SIGSTOP)

    with playing(["say", {"event": "ready"}]) as child:
        assert child.exit_status(within_seconds=SOON_SECONDS) == -signal.SIGKILL

    assert is_gone(server)
    assert running_server() != server


def test_a_frozen_fork_server_is_replaced_when_it_does_not_kill(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Children that it should have killed end with it."""
    monkeypatch.setattr(child_module, "_REAP_SECONDS", 0.3)
    server = running_server()
    with playing(["sleep", 60]) as child:
        pid = forked_pid(child)
        os.kill(server, signal.SIGSTOP)

    assert is_gone(pid)
    assert is_gone(server)
    assert "does not end" not in caplog.text
    assert running_server() != server


def test_requests_that_wait_go_to_the_next_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a frozen fork server had no room for is served by the one that takes its place."""
    monkeypatch.setattr(child_handle, "START_SECONDS", 2)
    server = frozen_server()

    with ExitStack() as running:
        children = [running.enter_context(playing(["say", {"number": number}])) for number in range(MORE)]
        waiting = [child.is_pending for child in children]
        heard = [events_of(child) for child in children]

    assert is_gone(server)
    for number, was_waiting in enumerate(waiting):
        assert heard[number] == ([{"number": number}] if was_waiting else [])
    assert any(waiting)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_host_that_gave_up_rights_has_no_children_with_them() -> None:
    """A fork server that was started with other rights than the host has now is not asked."""

    def dropping() -> tuple[Any, Any]:
        running_server()
        os.setgroups([4_242])
        os.setegid(4_243)
        (event,) = said(["inherited"])
        return event["groups"], event["environment"]

    groups, environment = forked(dropping)

    assert groups == [4_242]
    assert environment == {"LC_CTYPE": "C.UTF-8"}


def test_a_crash_of_a_child_ends_the_fork_server_after_the_others() -> None:
    """No second child has the memory layout of one that crashed; those that run go on."""
    server = running_server()
    with playing(["sleep", 1.0], ["say", {"event": "done"}]) as other:
        forked_pid(other)
        with playing(["die", signal.SIGSEGV]) as child:
            assert child.exit_status(within_seconds=SOON_SECONDS) == -signal.SIGSEGV
        assert running_server() != server
        assert not is_gone(server)
        assert events_of(other) == [{"event": "done"}]
    wait_for(lambda: is_gone(server))
    assert not left_over(set())


def test_a_crash_of_a_second_process_ends_the_fork_server_too() -> None:
    """It had the same layout, even where the child itself goes on and succeeds."""
    server = running_server()

    assert said(["crashing_process"], ["say", {"event": "done"}]) == [{"event": "done"}]

    wait_for(lambda: is_gone(server))
    assert running_server() != server


def test_nothing_stands_in_for_the_standard_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Distributions may have installed modules of such names beside this one."""
    for package in ("coderepos", "tests"):
        (tmp_path / package).symlink_to(Path(spawner.ROOT, package))
    for module in ("dataclasses", "json", "typing"):
        (tmp_path / f"{module}.py").write_text("raise ImportError")
    monkeypatch.setattr(spawner, "ROOT", str(tmp_path))
    stop_fork_server()

    assert running_server()
    stop_fork_server()


@pytest.mark.parametrize("executable", [None, "", "/usr/sbin/uwsgi"])
def test_a_host_whose_interpreter_has_no_name(monkeypatch: pytest.MonkeyPatch, executable: str | None) -> None:
    """Servers that embed Python are no interpreter themselves."""
    monkeypatch.setattr(sys, "executable", executable)
    stop_fork_server()

    assert running_server()


def test_a_fork_server_without_descriptors_says_so() -> None:
    """What it cannot take is an error of the one child, which says why."""

    def crowded() -> tuple[int | None, str]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        server = running_server()
        resource.prlimit(server, resource.RLIMIT_NOFILE, (9, 9))
        with playing(["exit", 0]) as child:
            return child.exit_status(within_seconds=SOON_SECONDS), child.describe_exit()

    assert forked(crowded) == (71, "not forked: Too many open files")


def test_a_fork_server_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what it imports cannot be imported, each child fails with its exit status."""
    stop_fork_server()
    monkeypatch.setattr(spawner, "_PRELOADED", "coderepos.git.no_such_module")

    with playing(["exit", 0]) as child:
        assert child.exit_status(within_seconds=SOON_SECONDS) == -signal.SIGKILL
        assert child.describe_exit() == "killed with its fork server, whose exit status was 1"

    monkeypatch.undo()
    assert running_server()


def test_a_time_that_the_host_set_for_sockets_changes_nothing() -> None:
    """Sockets of the host may wait by default; ours never do."""

    def with_default() -> bool:
        socket.setdefaulttimeout(30)
        began = time.monotonic()
        server = frozen_server()
        with ExitStack() as running:
            for _ in range(MORE):
                running.enter_context(playing(["exit", 0]))
            os.kill(server, signal.SIGCONT)
        return time.monotonic() - began < SOON_SECONDS * 2

    assert forked(with_default)


def memory_of(pid: int) -> Iterator[bytes]:
    """Yield what a process holds, mapping by mapping."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, rights, *_ = line.split()
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            if rights.startswith("rw"):
                memory.seek(start)
                yield memory.read(end - start)


def holds(pid: int, needle: str) -> bool:
    """Return whether a process has a text in its memory."""
    return any(needle.encode() in content for content in memory_of(pid))


def test_nothing_of_a_request_or_of_the_host_is_in_the_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a token that a child got, nor what that child said, nor a variable of the host."""
    # Made of two halves, so that only what is meant to hold them whole does.
    token, key, word = (f"{half}{uuid.uuid4().hex}" for half in ("ghp_", "key_", "word_"))
    stop_fork_server()
    monkeypatch.setenv("MASTER_ENCRYPTION_KEY", key)
    server = running_server()
    with playing(["say", {"word": word}], ["say", {"token": token}], ["sleep", 60]) as child:
        heard: list[dict[str, Any]] = []
        while len(heard) < 2:
            heard += child.read_events()
            time.sleep(0.005)
        if os.geteuid() != 0 and not os.access(f"/proc/{server}/mem", os.R_OK):
            pytest.skip("this user may not read the memory of other processes")
        assert holds(forked_pid(child), token), "it can be seen where it is"
        assert not holds(server, token)

    assert holds(server, "coderepos.git.preload"), "what it keeps can be seen"
    assert not any(holds(server, secret) for secret in (token, key, word))
    assert Path(f"/proc/{server}/environ").read_bytes() == b""


def test_the_fork_server_and_its_children_are_closed_to_others() -> None:
    """A process of the same user can look into neither, and the memory killer is told to choose them."""
    server = running_server()
    with playing(["sleep", 60]) as child:
        for pid in (server, forked_pid(child)):
            assert os.stat(f"/proc/{pid}/environ").st_uid == 0
            assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "800"
            with nullcontext() if os.geteuid() == 0 else pytest.raises(PermissionError):
                Path(f"/proc/{pid}/environ").read_bytes()


def test_children_have_no_descriptor_of_each_other() -> None:
    """Each has its three and standard error, whatever else runs or was asked for at the time."""
    with ExitStack() as running:
        for _ in range(5):
            forked_pid(running.enter_context(playing(["sleep", 60])))
        (event,) = said(["descriptors"])
        server = fork_server_pid()

        assert sorted(event["descriptors"]) == ["0", "1", "2", "3"]
        if os.geteuid() != 0:
            pytest.skip("only root may look into the fork server")
        links = [os.readlink(f"/proc/{server}/fd/{name}") for name in os.listdir(f"/proc/{server}/fd")]

    assert not [link for link in links if link.startswith("pipe:")], "nor does the fork server keep any"
    assert set(links) & set(event["descriptors"].values()) == {"/dev/null"}


WITHOUT_PROC = """\
import os, sys
sys.path.insert(0, sys.argv[1])
assert not os.listdir("/proc")
os.set_inheritable(os.open("/etc/hosts", os.O_RDONLY), True)
from tests.git.process.test_spawner import said, playing, stop_fork_server
with playing(["sleep", 60]) as child:
    pass
assert child.is_gone
print(said(["say", {"event": "done"}]))
stop_fork_server()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide /proc")
def test_a_host_without_proc() -> None:
    """Children are forked, killed and waited for where nothing is mounted at ``/proc``."""
    script = 'mount -t tmpfs none /proc && exec "$0" "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable, "-c", WITHOUT_PROC, spawner.ROOT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mounts of its own here")

    assert (done.stdout, done.returncode) == ("[{'event': 'done'}]\n", 0), done.stderr
