"""Whole clones and probes: real children, a real Git server, a real sandbox, and ``git`` as the reference."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from coderepos.exceptions import (
    CloneTimeout,
    InternalError,
    RefNotFound,
    RemoteNotFound,
    RemoteTimeout,
    RepositoryTooLarge,
)
from coderepos.git.clone import ChildModules, CloneRequest, clone
from coderepos.git.confinement import profiles
from coderepos.git.limits import SIZE_FACTOR, Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.probe import probe
from coderepos.git.process import spawner
from coderepos.git.results import Progress
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import Sandbox
from tests.support.git import git, make_repository
from tests.support.processes import descendants
from tests.support.programs.scripted import STARTED, error, outcome
from tests.support.servers.git_http_backend import GitServer
from tests.support.servers.hostile import HostileServer
from tests.support.servers.http_server import Exchange
from tests.support.users import USERS, forked

pytestmark = pytest.mark.usefixtures("no_children_left")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    """A server of one repository with some history, a tag, a link and an executable."""
    root = tmp_path_factory.mktemp("served")
    repository = make_repository(root / "repository.git", commits=4)
    (repository / "folder").mkdir()
    (repository / "folder/run").write_text("#!/bin/sh\n")
    (repository / "folder/run").chmod(0o755)
    (repository / "link").symlink_to("folder/run")
    (repository / "noise").write_bytes(os.urandom(20_000))
    git("add", "-A", cwd=repository)
    git("commit", "--quiet", "-m", "more", cwd=repository)
    git("tag", "-a", "v1", "-m", "one", cwd=repository)
    with GitServer(root) as server:
        yield server


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user reaches."""
    folder = Path(tempfile.mkdtemp(prefix="coderepos-"))
    folder.chmod(0o711)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=True)
    shutil.rmtree(folder)


def asking(url: str, policy: NetworkPolicy, **changed: Any) -> CloneRequest:
    """Return a request with everything at its default."""
    values: dict[str, Any] = {
        "credentials": None,
        "ref": "",
        "depth": None,
        "limits": Limits(clone_seconds=60),
        "min_level": 1,
        "group_readable": False,
    }
    return CloneRequest(url=url, policy=policy, **(values | changed))


def prepared(place: Path) -> Sandbox:
    """Return a sandbox in a prepared root."""
    root = SandboxRoot(place / "repos")
    root.prepare("tests")
    return Sandbox(root, "project", "repository")


def runs_for(user: int | None, code: str) -> str | None:
    """Return a Python of the version of the tests' own that this user may run, with all that ``code`` imports."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            if not subprocess.run([candidate, "-I", "-c", code], user=user, cwd="/", env={}, check=False).returncode:
                return candidate
        except (PermissionError, FileNotFoundError):
            continue
    return None


def worker(given: dict[str, Any], user: int | None = None) -> subprocess.Popen[str]:
    """Start a worker as a user, on the very code and libraries of this process."""
    import dulwich

    paths = [spawner.ROOT, str(Path(dulwich.__file__).parent.parent)]
    code = (
        f"import sys; sys.path[:0] = {paths[:1]!r}; sys.path += {paths[1:]!r}; "
        "import tests.support.programs.driver as d, dulwich"
    )
    python = runs_for(user, code)
    if python is None:
        pytest.skip("no Python here that another user may run")
    command = [python, "-I", "-c", f"{code}; d.main()", json.dumps(given)]
    return subprocess.Popen(command, user=user, cwd="/", env={}, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("user", USERS)
def test_a_repository_is_probed_cloned_and_published(
    served: GitServer, place: Path, tmp_path: Path, user: int | None
) -> None:
    """From URL to sandbox at the highest level, by any user: ``git`` finds the same history and the same files."""
    if user is not None:
        os.chown(place, user, user)
    given = {"url": served.url("repository.git"), "host": served.host, "root": str(place / "repos"), "token": "one"}
    origin = served.root / "repository.git"
    index = str(tmp_path / "index")

    process = worker(given, user)
    lines = [json.loads(line) for line in process.communicate(timeout=60)[0].splitlines()]

    result = lines[-1]
    assert result["clone"]["isolation_level"] == profiles.available_level()
    assert result["probe"]["wanted_id"] == result["clone"]["build"]["commit_id"] == git("rev-parse", "HEAD", cwd=origin)
    assert result["probe"]["estimated_bytes"] >= SIZE_FACTOR * 20_000
    sandbox = Sandbox(SandboxRoot(place / "repos"), "project", "repository")
    data, tree = f"--git-dir={sandbox.path / 'git'}", f"--work-tree={sandbox.repository_path}"
    assert git(data, "log", "--format=%H") == git("log", "--format=%H", cwd=origin)
    git(data, "fsck", "--strict")
    git(data, "read-tree", "HEAD", GIT_INDEX_FILE=index)
    assert git(data, tree, "status", "--porcelain", GIT_INDEX_FILE=index) == ""
    assert (sandbox.repository_path / "folder/run").stat().st_mode & 0o777 == 0o500
    assert os.readlink(sandbox.repository_path / "link") == "folder/run"


def test_nothing_remains_of_a_failed_clone(served: GitServer, place: Path) -> None:
    """After an error the caller discards one folder, and the sandbox is as if nothing had been."""
    sandbox = prepared(place)
    incoming = sandbox.create_incoming("one")
    request = asking(served.url("repository.git"), served.policy(), limits=Limits(wire_bytes=5_000))

    with pytest.raises(RepositoryTooLarge):
        clone(request, incoming=incoming, on_progress=lambda progress: None)
    sandbox.discard_incoming("one")

    assert os.listdir(sandbox.path) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [({"url": "missing.git"}, RemoteNotFound), ({"ref": "no-such-branch"}, RefNotFound)],
)
def test_both_ways_tell_what_is_wrong(
    served: GitServer, place: Path, changed: dict[str, Any], expected: type[Exception]
) -> None:
    """Probe and clone name a missing repository and a missing branch alike."""
    url = served.url(changed.pop("url", "repository.git"))
    request = asking(url, served.policy(), **changed)

    with pytest.raises(expected):
        probe(request, seconds=20)
    with pytest.raises(expected):
        clone(request, incoming=prepared(place).create_incoming("one"), on_progress=lambda progress: None)


def test_a_host_that_ignores_the_end_of_its_children_can_clone(tmp_path: Path, place: Path) -> None:
    """The build child knows how the processes end that it forks, whatever signals were ignored when it was started."""
    repository = make_repository(tmp_path / "many.git", commits=1)
    for number in range(400):
        (repository / f"{number}").write_text(f"{number:04}" * 500)
    git("add", "-A", cwd=repository)
    git("commit", "--quiet", "-m", "many", cwd=repository)

    def cloned() -> int:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        request = asking(server.url("many.git"), server.policy())
        report = clone(request, incoming=prepared(place).create_incoming("a"), on_progress=lambda _progress: None)
        return report.build.entries

    with GitServer(tmp_path) as server:
        assert forked(cloned) == 401


def silent() -> HostileServer:
    """A server that takes every request and never answers."""

    def wait(exchange: Exchange) -> None:
        exchange.stopping.wait(30)

    return HostileServer(wait)


def test_a_silent_server_is_left_at_the_deadline(place: Path) -> None:
    """Clone and probe end by the wall clock, whatever the child waits for, and leave no process."""
    with silent() as server:
        request = asking(server.url, server.policy(), limits=Limits(clone_seconds=1.0))
        begin = time.monotonic()
        with pytest.raises((CloneTimeout, RemoteTimeout)):
            clone(request, incoming=prepared(place).create_incoming("one"), on_progress=lambda progress: None)
        with pytest.raises(RemoteTimeout):
            probe(request, seconds=0.7)

    assert time.monotonic() - begin < 5


def test_a_worker_killed_in_a_clone_leaves_only_what_the_sweep_finds(place: Path) -> None:
    """With the worker both children are gone at once; what they built is never visible and is swept."""
    with GitServerSlow(place) as server:
        root = place / "repos"
        given = {"url": server.url("big.git"), "host": server.host, "root": str(root), "token": "one", "depth": 1}
        process = worker(given)
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("received_bytes", 0) > 100_000:
                break
        children = descendants(process.pid)
        assert len(children) == 3  # and the process that forked the two

        process.send_signal(signal.SIGKILL)
        process.communicate()

        deadline = time.monotonic() + 2
        while any(one.state != "Z" for one in descendants(os.getpid()).values() if one.pid in children):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for pid in children:
            with suppress(ChildProcessError):  # the fork server may have been faster
                os.waitpid(pid, 0)
    sandbox = Sandbox(SandboxRoot(root), "project", "repository")
    assert not os.path.lexists(sandbox.repository_path)
    assert sandbox.sweep(keep=(), older_than_seconds=0) == 1


class GitServerSlow(GitServer):
    """Serves half a megabyte that can't be compressed, at leisure once a probe has passed."""

    def __init__(self, folder: Path) -> None:
        repository = make_repository(folder / "served/big.git", commits=1)
        (repository / "noise").write_bytes(os.urandom(1_500_000))
        git("add", "-A", cwd=repository)
        git("commit", "--quiet", "-m", "big", cwd=repository)
        super().__init__(folder / "served", bytes_per_second=600_000)


def test_the_probe_stops_a_repository_that_is_too_large(served: GitServer) -> None:
    """The estimate, not the count, is held against the limit, and the answer names both in MB."""
    limit_bytes = 50_000
    request = asking(served.url("repository.git"), served.policy(), limits=Limits(wire_bytes=limit_bytes))

    with pytest.raises(RepositoryTooLarge, match=r"exceeds limit of 0\.05MB") as caught:
        probe(request, seconds=20)

    assert caught.value.fields["limit_mb"] == limit_bytes / 10**6


SCRIPTED = ChildModules(fetch="tests.support.programs.scripted")


def told(*script: list[Any], depth: int | None = None, seconds: float = 10) -> Any:
    """Return what a probe makes of a scripted child."""
    request = asking("https://git.example/r.git", NetworkPolicy(), ref=json.dumps([STARTED, *script]), depth=depth)
    return probe(request, seconds=seconds, modules=SCRIPTED)


def counted(pack_bytes: int, platform_bytes: object = None, *, stopped_early: object = False) -> list[Any]:
    """Return the outcome of counting."""
    return outcome(pack_bytes=pack_bytes, platform_size_bytes=platform_bytes, stopped_early=stopped_early)


@pytest.mark.parametrize(
    ("platform_bytes", "depth", "estimated_bytes", "source"),
    [
        (None, None, 35, "probe"),
        (34, None, 35, "probe"),
        (36, None, 36, "platform"),
        (36, 1, 35, "probe"),
        (0, None, 35, "probe"),
    ],
)
def test_the_larger_of_count_and_platform_is_the_estimate(
    platform_bytes: int | None, depth: int | None, estimated_bytes: int, source: str
) -> None:
    """Where the whole history is wanted, the platform's own figure counts if it is larger."""
    report = told(counted(10, platform_bytes), depth=depth)

    assert (report.estimated_bytes, report.size_source, report.pack_bytes) == (estimated_bytes, source, 10)
    assert (report.stopped_early, report.ref_name) == (False, "refs/heads/main")


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (counted(40_000_000), "Repository size 140.0MB exceeds limit of 100MB"),
        (counted(28_600_000, stopped_early=True), "Repository size at least 100.1MB exceeds limit of 100MB"),
        (counted(10, 250_000_000), "Repository size 250.0MB exceeds limit of 100MB"),
        (counted(28_600_000, 250_000_000, stopped_early=True), "Repository size 250.0MB exceeds limit of 100MB"),
    ],
)
def test_too_large_is_told_in_mb(event: list[Any], sentence: str) -> None:
    """The error says how large the repository is, or how large at least, and what is allowed."""
    with pytest.raises(RepositoryTooLarge) as caught:
        told(event)

    assert caught.value.message == sentence


@pytest.mark.parametrize(
    "event",
    [
        counted(10, -1),
        counted(10, 2**60),
        counted(10, "large"),
        counted(10, stopped_early=None),
        outcome(pack_bytes=10, stopped_early=False, wanted_id="x"),
        ["raw", "no json\n"],
        error("no_such_code"),
        ["exit", 1],
    ],
)
def test_a_child_that_misbehaves_is_not_believed(event: list[Any]) -> None:
    """The same checks hold for a probe as for a clone."""
    with pytest.raises(InternalError):
        told(["say", {"event": "progress", "phase": "receiving"}], event)


def test_a_probe_raises_what_its_child_says() -> None:
    """Errors of the child come out as they are."""
    with pytest.raises(RemoteNotFound):
        told(error("remote_not_found"))


def test_progress_comes_from_the_real_children(served: GitServer, place: Path) -> None:
    """The caller sees both children's figures."""
    seen: list[Progress] = []
    sandbox = prepared(place)

    report = clone(
        asking(served.url("repository.git"), served.policy()),
        incoming=sandbox.create_incoming("one"),
        on_progress=seen.append,
    )

    assert seen[0].phase == "connecting"
    assert report.received_bytes == sum(path.stat().st_size for path in sandbox.path.rglob("*.pack"))
    assert set(report.isolation) == {"fetch", "build"}
