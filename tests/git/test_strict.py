"""Whole clones and probes by children that end at the first system call that their list does not name.

A release of Python, of the C library or of OpenSSL that makes another call fails here first, and says which child made
it: in use the call would fail with ``EPERM``, which may show as any error or as none.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from coderepos.exceptions import GitError, RefNotFound, RemoteAuthFailed, RemoteNotFound
from coderepos.git.clone import ChildModules, CloneRequest, clone
from coderepos.git.confinement import linux, seccomp
from coderepos.git.confinement.allow_lists import FETCH
from coderepos.git.confinement.bpf import KILL_PROCESS, AllowList
from coderepos.git.credentials import Credentials, PublicText
from coderepos.git.limits import Limits
from coderepos.git.probe import probe
from tests.support import packs
from tests.support.packs import FILE, GITLINK, LINK, Line, blob
from tests.support.reference_git import repository_of
from tests.support.servers.git_http_backend import GitServer

pytestmark = pytest.mark.usefixtures("no_children_left")

STRICT = ChildModules(
    fetch="tests.support.programs.strict.fetch",
    build="tests.support.programs.strict.build",
    search="tests.support.programs.strict.commit_search",
)
TOKEN = "glpat-of-the-tests"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a repository that is worth all second processes, and one of odd names and a tag."""
    root = tmp_path_factory.mktemp("served")
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", root / "large.git"], check=True)
    subprocess.run(["git", "fast-import", "--quiet"], cwd=root / "large.git", input=history(), check=True)
    odd = packs.tree(
        Line(FILE, b"\xff\x1b[31m", blob().id),
        Line(FILE, b"ordinary", blob(b"other").id),
        Line(LINK, b"a link", blob(b"ordinary").id),
        Line(LINK, b"outside", blob(b"/etc/passwd").id),
        Line(GITLINK, b"submodule", "1" * 40),
    )
    head = packs.commit(odd)
    tag = packs.tag(blob())
    objects = [blob(), blob(b"other"), blob(b"ordinary"), blob(b"/etc/passwd"), odd, head, tag]
    repository_of(root / "odd.git", objects, {"refs/heads/main": head.id, "refs/tags/blob": tag.id})
    return root


def history() -> bytes:
    """Return a stream for ``git fast-import``: thousands of files, and a large one that changes hundreds of times."""
    chance = random.Random(1)
    lines = [b"%x\n" % chance.getrandbits(200) for _ in range(600)]
    commands = []
    for number in range(600):
        lines[chance.randrange(len(lines))] = b"%x\n" % chance.getrandbits(200)
        commands.append(b"commit refs/heads/main\ncommitter A <a@b.c> %d +0000\ndata 1\nx\n" % (1_700_000_000 + number))
        content = b"".join(lines)
        commands.append(b"M 644 inline large\ndata %d\n%s\n" % (len(content), content))
        for file in range(6):
            small = b"%d %d\n" % (number, file)
            commands.append(b"M 644 inline d%d/f%d-%d\ndata %d\n%s\n" % (number % 20, number, file, len(small), small))
    return b"".join(commands)


@pytest.fixture(params=["http", "https"])
def server(root: Path, request: pytest.FixtureRequest) -> Iterator[GitServer]:
    """Serve them to whoever has the token."""
    with GitServer(root, credentials=("user", TOKEN), tls=request.param == "https") as server:
        yield server


def asking(
    server: GitServer, name: str, *, ref: str = "", depth: int | None = None, token: str = TOKEN
) -> CloneRequest:
    """Return a request; names that would have to be looked up are left out, since glibc lives with refused sockets."""
    return CloneRequest(
        url=server.url(name),
        credentials=Credentials(username=PublicText("user"), password=PublicText(token)),
        ref=ref,
        depth=depth,
        policy=server.policy(),
        limits=Limits(),
        min_level=3,
        group_readable=False,
    )


def cloned(request: CloneRequest, incoming: Path) -> int:
    """Clone, and return how many objects came."""
    incoming.mkdir()
    return clone(request, incoming=incoming, on_progress=lambda _: None, modules=STRICT).build.objects


@pytest.mark.parametrize("depth", [None, 1])
def test_a_clone_makes_listed_calls_alone(server: GitServer, tmp_path: Path, depth: int | None) -> None:
    """Both children and their second processes, from the first byte to the last."""
    objects = cloned(asking(server, "large.git", depth=depth), tmp_path / "incoming")

    assert objects > (5_000 if depth is None else 3_600)
    assert len(list((tmp_path / "incoming/tree").rglob("f*"))) == 3_600


def test_odd_names_make_listed_calls_alone(server: GitServer, tmp_path: Path) -> None:
    """What does not print, links, and what is left out."""
    assert cloned(asking(server, "odd.git"), tmp_path / "incoming")


@pytest.mark.parametrize(
    ("name", "changed", "error"),
    [
        ("missing.git", {}, RemoteNotFound),
        ("large.git", {"ref": "no-such-branch"}, RefNotFound),
        ("large.git", {"token": "another"}, RemoteAuthFailed),
        ("odd.git", {"ref": "blob"}, GitError),
    ],
)
def test_errors_make_listed_calls_alone(
    server: GitServer, tmp_path: Path, name: str, changed: dict[str, str], error: type[GitError]
) -> None:
    """Every error is told as itself."""
    with pytest.raises(error):
        cloned(asking(server, name, **changed), tmp_path / "incoming")  # type: ignore[arg-type]  # of texts


def test_a_probe_makes_listed_calls_alone(server: GitServer) -> None:
    """The third child too, which looks for a commit."""
    assert probe(asking(server, "large.git", depth=1), seconds=60, modules=STRICT).pack_bytes
    with pytest.raises(RefNotFound):
        probe(asking(server, "odd.git", ref="blob"), seconds=60, modules=STRICT)


def test_another_call_ends_the_process() -> None:
    """The verdict of these tests is in force: what is not listed is seen."""
    assert ended_by(FETCH, lambda: os.getpid()) == 0
    assert ended_by(FETCH, lambda: os.chmod("/nowhere", 0o600)) == -signal.SIGSYS


def ended_by(allowed: AllowList, call: object) -> int:
    """Return how a process ends that makes a call under a strict filter."""
    child = os.fork()
    if not child:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(allowed, refusal=KILL_PROCESS)
        assert callable(call)
        call()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
