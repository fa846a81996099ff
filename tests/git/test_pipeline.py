"""The pipeline with children that play scripts: what it makes of everything that two processes can do."""

from __future__ import annotations

import fcntl
import gc
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from coderepos.exceptions import (
    CloneTimeout,
    CodeReposError,
    InternalError,
    LimitExceeded,
    TooManyObjects,
    error_classes,
)
from coderepos.git import clone as clone_module
from coderepos.git.clone import ChildModules, CloneRequest, clone
from coderepos.git.credentials import Credentials
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.process import child as child_module
from coderepos.git.process import events, spawner
from coderepos.git.process.child import Child
from coderepos.git.results import CloneReport, Progress
from tests.support.processes import (
    Process,
    descendants,
    fork_server_pid,
    forked_pid,
    held_by_the_kernel,
    left_over,
    open_descriptors,
    stop_fork_server,
)
from tests.support.programs.scripted import BUILD, COMMIT, FETCH, STARTED, error, outcome, report
from tests.support.users import forked

pytestmark = pytest.mark.usefixtures("no_children_left", "no_descriptors_left")

SCRIPTED = ChildModules(fetch="tests.support.programs.scripted", build="tests.support.programs.scripted")
TOKEN = "ghp_0123456789abcdefghijABCDEFGHIJ012345"

Script = list[Any]
Play = Callable[..., CloneReport]


class Plain:
    """A secret of the tests."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the plain text."""
        return self._text


@pytest.fixture
def no_descriptors_left() -> Any:
    """No descriptor that a test opened outlives it."""
    gc.collect()  # what earlier tests left to it would be closed in between
    before = open_descriptors()
    yield
    assert open_descriptors() <= before


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run the pipeline with two scripts."""

    def run(
        fetch: Script = FETCH,
        build: Script = BUILD,
        *,
        seconds: float = 20,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        credentials: Credentials | None = None,
    ) -> CloneReport:
        incoming = tmp_path / uuid.uuid4().hex
        incoming.mkdir()
        (incoming / "script").write_text(json.dumps(build))
        request = CloneRequest(
            url="https://git.example/r.git",
            credentials=credentials,
            ref=json.dumps(fetch),
            depth=None,
            policy=NetworkPolicy(),
            limits=Limits(clone_seconds=seconds),
            min_level=1,
            group_readable=False,
        )
        return clone(request, incoming=incoming, on_progress=on_progress, modules=SCRIPTED)

    return run


def test_both_children_together_make_a_report(play: Play) -> None:
    """What fetch learned and what build made is one report, with the weaker isolation of the two."""
    weaker = ["say", {"event": "started", "isolation": {"level": 2, "landlock_abi": 3}}]

    made = play([weaker, ["send", 3_000_000], outcome(pack_bytes=3_000_000)])

    assert made.build.commit_id == COMMIT
    assert made.received_bytes == 3_000_000
    assert (made.ref_name, made.head_branch) == ("refs/heads/main", "refs/heads/main")
    assert made.isolation_level == 2
    assert made.isolation == {
        "fetch": {"level": 2, "landlock_abi": 3},
        "build": {"level": 3, "landlock_abi": 7},
    }


def test_a_long_outcome_reaches_build_whole(play: Play) -> None:
    """An outcome of many times the pipe's size is passed on while build takes its time to read it."""
    tags = [[f"refs/tags/v{number}", COMMIT] for number in range(30_000)]
    seen: list[Progress] = []

    play(
        [STARTED, outcome(tags=tags)],
        [STARTED, ["receive"], ["sleep", 0.3], ["await_outcome"], ["sleep", 0.5], ["leave"], report()],
        on_progress=seen.append,
    )

    assert max(progress.objects for progress in seen) > 30_000 * 60


def test_progress_of_both_is_merged_and_never_goes_back(play: Play) -> None:
    """The furthest phase and the largest figures of either child are told."""
    seen: list[Progress] = []

    play(
        [
            STARTED,
            ["say", {"event": "progress", "phase": "receiving", "received_bytes": 10}],
            ["sleep", 0.3],
            ["say", {"event": "progress", "phase": "receiving", "received_bytes": 5}],
            outcome(),
        ],
        [
            STARTED,
            ["say", {"event": "progress", "phase": "connecting", "objects": 1, "total_objects": 9}],
            ["receive"],
            ["await_outcome"],
            ["sleep", 0.5],
            ["leave"],
            report(),
        ],
        on_progress=seen.append,
    )

    assert seen[0] == Progress(phase="connecting")
    assert seen[-1].phase == "writing"
    assert (seen[-1].received_bytes, seen[-1].total_objects) == (10, 9)
    order = [events.PHASES.index(progress.phase) for progress in seen]
    assert order == sorted(order)


@pytest.mark.slow
def test_the_caller_hears_once_a_second_while_nothing_moves(play: Play) -> None:
    """Silence of both children does not silence the pipeline: leases are renewed there."""
    at: list[float] = []

    play([STARTED, ["sleep", 2.2], outcome()], on_progress=lambda progress: at.append(time.monotonic()))

    assert 3 <= len(at) <= 8
    assert max(later - earlier for earlier, later in pairwise(at)) < 1.4


def test_a_flood_of_progress_does_not_reach_the_caller(play: Play) -> None:
    """However often children report, the caller hears about it five times a second."""
    heard: list[Progress] = []
    said = [["say", {"event": "progress", "phase": "receiving", "received_bytes": n}] for n in range(2_000)]

    play([STARTED, *said, outcome()], on_progress=heard.append)

    assert len(heard) < 15


@pytest.mark.parametrize(
    ("fetch", "build"),
    [
        ([STARTED, ["sleep", 60]], BUILD),
        (FETCH, [STARTED, ["sleep", 60]]),
        ([["sleep", 60]], [["sleep", 60]]),
        ([STARTED, ["stubborn_process"], ["sleep", 60]], [STARTED, ["stubborn_process"], ["sleep", 60]]),
        ([STARTED, ["close_events"], ["close_input"], ["sleep", 60]], [STARTED, ["sleep", 60]]),
        ([STARTED, ["send", 50_000_000], outcome()], [STARTED, ["sleep", 60]]),
    ],
)
def test_the_deadline_ends_everything(play: Play, fetch: Script, build: Script) -> None:
    """Whatever the children do or don't do, the wall clock ends the clone and all its processes."""
    begin = time.monotonic()

    with pytest.raises((CloneTimeout, InternalError)) as caught:
        play(fetch, build, seconds=0.4)

    assert time.monotonic() - begin < 4
    if ["close_events"] not in fetch:
        assert isinstance(caught.value, CloneTimeout)


class Abort(Exception):
    """What a caller raises."""


def test_what_the_caller_raises_goes_through(play: Play) -> None:
    """A lost lease ends the clone from inside the callback."""

    def lose(progress: Progress) -> None:
        raise Abort

    with pytest.raises(Abort):
        play([STARTED, ["sleep", 60]], [STARTED, ["stubborn_process"], ["sleep", 60]], on_progress=lose)


class QueueTimeout(SystemExit):
    """What a queue raises from its alarm signal."""


def test_the_alarm_of_the_queue_goes_through(play: Play) -> None:
    """An exception that a signal handler raises anywhere ends the children on its way out.

    The process has one thread, as the queue's workers have: a second one could take the signal that the first holds.
    """

    def ring(number: int, frame: object) -> None:
        raise QueueTimeout

    def alarmed() -> tuple[dict[int, Process], set[str]]:
        signal.signal(signal.SIGALRM, ring)
        descriptors = open_descriptors()
        for delay_seconds in (0.001, 0.003, 0.005, 0.007, 0.009, 0.011, 0.013, 0.02, 0.1, 0.3, 0.6):
            signal.setitimer(signal.ITIMER_REAL, delay_seconds)
            with pytest.raises(QueueTimeout):
                play([STARTED, ["sleep", 60]], [STARTED, ["second_process"], ["sleep", 60]])
        return left_over(set()), open_descriptors() - descriptors

    assert forked(alarmed) == ({}, set())


TRUNCATES = [STARTED, ["receive"], error("remote_protocol_error", reason="pack ends early")]
BREAKS = [STARTED, error("internal_error")]
BREAKS_LATE = [STARTED, ["sleep", 0.3], error("internal_error")]


@pytest.mark.parametrize(
    ("fetch", "build", "code"),
    [
        # fetch fails, and build only sees that the pack ends
        ([STARTED, ["send", 3], error("remote_auth_failed")], TRUNCATES, "remote_auth_failed"),
        ([STARTED, ["close_pack"], ["sleep", 0.5], error("remote_timeout")], TRUNCATES, "remote_timeout"),
        ([STARTED, ["close_pack"], ["sleep", 0.5], error("too_many_refs", figure=9)], TRUNCATES, "too_many_refs"),
        ([error("isolation_unavailable", level=1, min_level=3)], TRUNCATES, "isolation_unavailable"),
        ([error("url_not_allowed")], [STARTED, ["receive"], ["await_outcome"]], "url_not_allowed"),
        # build refuses, and fetch only sees that nobody reads
        (BREAKS_LATE, [STARTED, error("too_many_objects", figure=2, limit=1)], "too_many_objects"),
        (BREAKS, [STARTED, ["sleep", 0.5], error("unsafe_repository", reason="dot git")], "unsafe_repository"),
        ([STARTED, ["send", 50_000_000]], [STARTED, error("sandbox_full")], "sandbox_full"),
        (BREAKS, [STARTED, ["sleep", 0.3], error("remote_protocol_error", reason="bad")], "remote_protocol_error"),
        # fetch is fine, and build finds the pack broken
        (FETCH, TRUNCATES, "remote_protocol_error"),
        (FETCH, [STARTED, ["receive"], error("internal_error")], "internal_error"),
        # one dies without a word
        ([STARTED, ["die", signal.SIGKILL]], TRUNCATES, "internal_error"),
        ([STARTED, ["exit", 0]], [STARTED, ["receive"], ["await_outcome"]], "internal_error"),
        (FETCH, [STARTED, ["die", signal.SIGKILL]], "internal_error"),
        (FETCH, [STARTED, ["die", signal.SIGXCPU]], "clone_timeout"),
        (FETCH, [STARTED, ["second_process"], ["die", signal.SIGKILL]], "internal_error"),
        (FETCH, [STARTED, ["stubborn_process"], ["exit", 1]], "internal_error"),
        ([STARTED, ["die", signal.SIGXCPU]], TRUNCATES, "clone_timeout"),
    ],
)
def test_the_root_cause_is_told(play: Play, fetch: Script, build: Script, code: str) -> None:
    """Of two errors the one that explains the other is raised, as soon as that is clear."""
    begin = time.monotonic()

    with pytest.raises(CodeReposError) as caught:
        play(fetch, build, seconds=10)

    assert caught.value.code == code
    assert type(caught.value) is error_classes()[code]
    assert time.monotonic() - begin < 6


@pytest.mark.parametrize(
    ("fetch", "build", "code"),
    [
        ([STARTED, ["sleep", 60]], [STARTED, error("internal_error")], "internal_error"),
        ([STARTED, ["close_pack"], ["sleep", 60]], TRUNCATES, "remote_protocol_error"),
    ],
)
def test_a_child_that_never_names_a_cause_is_not_waited_for(
    play: Play, monkeypatch: pytest.MonkeyPatch, fetch: Script, build: Script, code: str
) -> None:
    """After a grace the error that is known is raised."""
    monkeypatch.setattr(clone_module, "_GRACE_SECONDS", 0.2)

    with pytest.raises(CodeReposError) as caught:
        play(fetch, build, seconds=30)

    assert caught.value.code == code


def test_an_error_keeps_its_figures(play: Play) -> None:
    """What a child measured is in the exception, its fields and its sentence."""
    with pytest.raises(TooManyObjects, match="at least 7 objects; the limit is 5") as caught:
        play(FETCH, [STARTED, error("too_many_objects", figure=7, limit=5)])

    assert isinstance(caught.value, LimitExceeded)
    assert caught.value.fields == {"figure": 7, "limit": 5}


NOT_VALID: list[Script] = [
    ["raw", "no json\n"],
    ["raw", "[" * 100_000 + "\n"],
    ["raw", "x" * 1_000_000, 9],
    ["raw", "x" * 7_900_000 + "\n", 3],
    ["raw", "{}\n" * 200_000],
    ["say", {"event": "unknown"}],
    STARTED,
    ["say", {"event": "progress", "phase": "dancing"}],
    error("no_such_code"),
    error("unsafe_repository", message="what the server said"),
    report(),
    outcome(),
]


@pytest.mark.parametrize("role", ["fetch", "build"])
@pytest.mark.parametrize("event", NOT_VALID)
def test_what_is_no_valid_event_ends_the_clone(play: Play, role: str, event: Script) -> None:
    """A child that says what no child should say is not believed any further."""
    twice = [event] if event[1] == outcome()[1] else []
    script = [STARTED, event, *twice, ["sleep", 60]]

    with pytest.raises(InternalError):
        play(*((script, BUILD) if role == "fetch" else ([STARTED, ["sleep", 60]], script)), seconds=8)


@pytest.mark.parametrize("first", [outcome(), ["say", {"event": "started", "isolation": {"level": 4}}]])
def test_a_child_says_first_how_it_is_confined(play: Play, first: Script) -> None:
    """Nothing is believed of a child that did not say how it is confined, except why it could not be."""
    with pytest.raises(InternalError):
        play([first, ["sleep", 60]], seconds=5)


def test_an_outcome_is_checked_before_build_sees_it(play: Play) -> None:
    """What the process at the network says reaches the other one only where every field is well-formed."""
    with pytest.raises(InternalError):
        play([STARTED, outcome(ref_name="refs/../x"), ["sleep", 60]], seconds=5)


def test_places_are_logged_without_values(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    """The log says where in a child an error came from, and drops what is no place."""
    said = error("internal_error")
    said[1]["trace"] = ["build.py:7 main", "token ghp_secret", 5, "pack.py:120 <genexpr>"]

    with pytest.raises(InternalError):
        play(FETCH, [STARTED, said])

    assert "build child ends with internal_error at build.py:7 main < pack.py:120 <genexpr>" in caplog.text
    assert "ghp_secret" not in caplog.text


def token_places(pid: int) -> list[str]:
    """Return the arguments and the environment of a process."""
    return [Path(f"/proc/{pid}/{name}").read_text() for name in ("cmdline", "environ")]


def test_the_token_travels_by_the_pipe_alone(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    """The token is in no argument, variable, log line or error, and build gets nothing of it."""
    caplog.set_level(logging.DEBUG)
    credentials = Credentials(username=Plain("x-access-token"), password=Plain(TOKEN))
    seen: list[str] = []

    def look(progress: Progress) -> None:
        alive = [one.pid for one in descendants(os.getpid()).values() if one.state != "Z"]
        seen.extend(text for pid in alive for text in token_places(pid))

    with pytest.raises(CloneTimeout) as caught:
        play([STARTED, ["sleep", 60]], [STARTED, ["sleep", 60]], seconds=1, on_progress=look, credentials=credentials)

    assert any("coderepos.git.preload" in text for text in seen)
    assert not any(TOKEN in text for text in [*seen, caplog.text, str(caught.value), repr(caught.value.fields)])


DRIVER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.clone import CloneRequest, clone
from tests.git.test_pipeline import SCRIPTED
request = CloneRequest(url="https://git.example/r.git", credentials=None, ref=sys.argv[2], depth=None,
    policy=NetworkPolicy(), limits=Limits(), min_level=1, group_readable=False)
clone(request, incoming=Path(sys.argv[3]), on_progress=lambda progress: print("alive", flush=True), modules=SCRIPTED)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_children_die_with_the_worker(tmp_path: Path, number: signal.Signals) -> None:
    """A worker that is killed takes both children along, and what they started."""
    (tmp_path / "script").write_text(json.dumps([STARTED, ["second_process"], ["sleep", 60]]))
    script = json.dumps([STARTED, ["second_process"], ["sleep", 60]])
    command = [sys.executable, "-c", DRIVER, spawner.ROOT, script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        deadline = time.monotonic() + 10
        while len(descendants(worker.pid)) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        below = descendants(worker.pid)
        assert len(below) == 5  # the fork server, two children, and what each of them started

        worker.send_signal(number)

    while any(process.state != "Z" for process in descendants(os.getpid()).values() if process.pid in below):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for process in below.values():
        if process.session == process.pid:
            with suppress(ChildProcessError):  # the fork server may have been faster
                os.waitpid(process.pid, 0)  # an orphan that only this test's adoption keeps


def in_another_process(deed: Callable[[], object]) -> int:
    """Return the exit status of a forked process that does something."""
    if not (child := os.fork()):
        try:
            deed()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("reaping", ["ignored", "stolen"])
def test_a_host_that_reaps_our_children_is_no_obstacle(play: Play, reaping: str) -> None:
    """Ignored or greedily handled SIGCHLD changes neither success nor failure, and leaves no process."""

    def steal(number: int, frame: object) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return

    def work() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN if reaping == "ignored" else steal)
        play()
        with pytest.raises(CloneTimeout):
            play([STARTED, ["sleep", 60]], [STARTED, ["second_process"], ["sleep", 60]], seconds=0.7)
        with pytest.raises(InternalError):
            play([STARTED, ["exit", 1]], [STARTED, ["second_process"], ["exit", 1]], seconds=5)
        stop_fork_server()
        assert not [process for process in descendants(os.getpid()).values() if process.state != "Z"]

    assert in_another_process(work) == 0


def test_a_daemonic_worker_can_clone(play: Play) -> None:
    """A forked, daemonic worker, as queues use it, may not start processes by multiprocessing, but may clone."""
    worker = multiprocessing.get_context("fork").Process(target=play, daemon=True)
    worker.start()
    worker.join(20)
    status = worker.exitcode
    worker.close()

    assert status == 0


def test_a_thread_can_clone(play: Play) -> None:
    """Servers with threads clone and probe from any of them, several at once."""
    made: list[CloneReport] = []
    threads = [threading.Thread(target=lambda: made.append(play())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(made) == 3


def test_signal_handlers_stay_as_they_are(play: Play) -> None:
    """The pipeline neither sets nor needs a signal handler."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}

    play()

    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


def test_a_python_that_can_not_be_started_is_told(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing interpreter is an error of ours and leaves nothing open."""
    stop_fork_server()
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")

    with pytest.raises(InternalError):
        play()


@pytest.mark.parametrize("executable", ["/usr/bin/uwsgi", ""])
def test_an_embedding_server_is_not_started_again(play: Play, monkeypatch: pytest.MonkeyPatch, executable: str) -> None:
    """Where the server's own binary takes the interpreter's place, the Python beside its libraries is used."""
    stop_fork_server()
    monkeypatch.setattr(sys, "executable", executable)

    assert play().build.commit_id == COMMIT


def test_the_pack_pipe_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe holds a megabyte where the kernel grants it, and works where it does not."""
    large = child_module.pack_pipe()
    monkeypatch.setattr(child_module, "PIPE_BYTES", -1)
    usual = child_module.pack_pipe()

    sizes = [fcntl.fcntl(ends[0], fcntl.F_GETPIPE_SZ) for ends in (large, usual)]
    for descriptor in (*large, *usual):
        os.close(descriptor)

    assert sizes[0] >= sizes[1] > 0


def test_a_child_that_the_kernel_holds_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where even SIGKILL does not end a process in time, the log says so and the caller goes on."""
    monkeypatch.setattr(child_module, "_REAP_SECONDS", 0.2)
    with open(os.devnull, "wb") as nowhere:
        child = Child("fetch", "tests.support.programs.scripted", nowhere.fileno())
    server = fork_server_pid()
    with held_by_the_kernel(forked_pid(child)):
        child.end()

    assert "does not end" in caplog.text
    child.end()
    assert child.exit_status() is None
    assert fork_server_pid() == server


def test_nothing_is_looked_at_while_a_child_may_still_run(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a build child made is not published while anything that it started may change it."""
    monkeypatch.setattr(child_module, "_REAP_SECONDS", 0.2)
    held: dict[int, AbstractContextManager[None]] = {}

    def hold(_progress: Progress) -> None:
        for pid, process in descendants(os.getpid()).items():
            if process.parent == fork_server_pid() and pid not in held:
                held[pid] = held_by_the_kernel(pid)
                held[pid].__enter__()

    with pytest.raises(InternalError):
        play([STARTED, ["sleep", 1.5], outcome()], [STARTED, ["await_outcome"], ["leave"], report()], on_progress=hold)
    assert len(held) == 2
    for one in held.values():
        one.__exit__(None, None, None)
