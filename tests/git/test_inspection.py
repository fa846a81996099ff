"""The parent publishes nothing that the build child should not have left, whatever the child says of it."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coderepos.exceptions import CloneTimeout, CodeReposError, InternalError, SandboxUnavailable
from coderepos.git import clone as pipeline
from coderepos.git import inspection
from coderepos.git.clone import ChildModules, CloneRequest, clone
from coderepos.git.confinement import linux
from coderepos.git.inspection import inspect
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.results import CloneReport, Progress
from tests.support.git import git, make_repository
from tests.support.programs.scripted import COMMIT, FETCH, STARTED, make_version, report
from tests.support.servers.git_http_backend import GitServer
from tests.support.users import NOBODY

pytestmark = pytest.mark.usefixtures("no_children_left")

SCRIPTED = ChildModules(fetch="tests.support.programs.scripted", build="tests.support.programs.scripted")
LIMITS = Limits(clone_seconds=20, disk_bytes=200_000, entries=50, depth=4)


@pytest.fixture
def incoming(tmp_path: Path) -> Iterator[Path]:
    """The folder in which a build child works."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    yield folder
    subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=False)


def built(
    incoming: Path,
    code: str = "",
    on_progress: Callable[[Progress], None] = lambda _: None,
    clone_seconds: float = LIMITS.clone_seconds,
) -> CloneReport:
    """Clone with a build child that leaves what it should, and does to it what the code says."""
    steps = [STARTED, ["receive"], ["await_outcome"], ["leave", code], report(git_bytes=1, tree_bytes=2, entries=3)]
    (incoming / "script").write_text(json.dumps(steps))
    request = CloneRequest(
        url="https://git.example/r.git",
        credentials=None,
        ref=json.dumps(FETCH),
        depth=None,
        policy=NetworkPolicy(),
        limits=replace(LIMITS, clone_seconds=clone_seconds),
        min_level=1,
        group_readable=False,
    )
    return clone(request, incoming=incoming, on_progress=on_progress, modules=SCRIPTED)


def test_what_is_there_counts_not_what_was_said(incoming: Path) -> None:
    """Figures are those of the parent's own look."""
    made = built(incoming)

    files = [path for path in (incoming / "git").rglob("*") if path.is_file()]
    assert made.build.git_bytes == sum(path.stat().st_size for path in files)
    assert (made.build.tree_bytes, made.build.entries) == (5 * 4_096, 4)
    assert (made.build.commit_id, made.build.objects) == (COMMIT, 3)


def test_honest_figures_are_the_same(incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parent and child count alike, so that nothing is refused that the child found to be within the limits."""
    repository = make_repository(tmp_path / "served/repository")
    (repository / "folder/inner").mkdir(parents=True)
    (repository / "folder/inner/large").write_bytes(os.urandom(9_000))
    (repository / "folder/empty").write_bytes(b"")
    (repository / "folder/program").write_text("#!/bin/sh")
    (repository / "folder/program").chmod(0o755)
    (repository / "inside").symlink_to("folder/inner")
    (repository / "outside").symlink_to("../../etc")
    git("add", "-A", cwd=repository)
    git("update-index", "--add", "--cacheinfo", f"160000,{COMMIT},module", cwd=repository)
    git("commit", "--quiet", "-m", "all kinds", cwd=repository)
    said = []

    def compare(report: CloneReport, *rest: Any, **options: Any) -> CloneReport:
        said.append(report)
        return inspected(report, *rest, **options)

    inspected = pipeline.inspected
    monkeypatch.setattr(pipeline, "inspected", compare)
    with GitServer(tmp_path / "served") as server:
        request = CloneRequest(
            url=server.url("repository"),
            credentials=None,
            ref="",
            depth=None,
            policy=NetworkPolicy(private_hosts=(server.host,), insecure_http_hosts=(server.host,)),
            limits=Limits(clone_seconds=60),
            min_level=1,
            group_readable=False,
        )
        made = clone(request, incoming=incoming, on_progress=lambda _: None)

    assert set(made.build.seconds) == {"scan", "resolve", "checkout", "index", "sync"}
    del made.build.seconds["sync"]
    assert made == said[0]


OPEN = "[os.chmod(folder, 0o700) for folder in (TREE, GIT, GIT + '/objects', GIT + '/objects/pack', GIT + '/refs')]; "

LEFT = {
    "tree that is a link": "os.chmod('tree', 0o700); os.rename('tree', '../aside'); os.symlink('/etc', 'tree')",
    "tree that is a file": "os.chmod('tree', 0o700); os.rename('tree', '../aside'); open('tree', 'w').close()",
    "git that is a link": "os.chmod('git', 0o700); os.rename('git', '../aside'); os.symlink('/etc', 'git')",
    "no tree": "os.chmod('tree', 0o700); os.rename('tree', '../aside')",
    "no git": "os.chmod('git', 0o700); os.rename('git', '../aside')",
    "something beside": "open('beside', 'w').close()",
    "folder beside": "os.mkdir('.hidden')",
    "link out": OPEN + "os.symlink('/etc/passwd', 'tree/out')",
    "link up": OPEN + "os.symlink('../git/config', 'tree/out')",
    "links in a chain": OPEN + "os.symlink('a', 'tree/b'); os.symlink('..', 'tree/a'); os.symlink('b/..', 'tree/c')",
    "links in a circle": OPEN + "os.symlink('a', 'tree/b'); os.symlink('b', 'tree/a')",
    "program of its owner": "os.chmod('tree/file', 0o4500)",
    "program of its group": "os.chmod('tree/file', 0o2500)",
    "sticky folder": "os.chmod('tree/folder', 0o1500)",
    "writable file": "os.chmod('tree/file', 0o600)",
    "file for all to write": "os.chmod('tree/file', 0o402)",
    "writable folder": "os.chmod('tree/folder', 0o700)",
    "closed folder": "os.chmod('tree/folder', 0o000)",
    "closed file": "os.chmod('tree/file', 0o000)",
    "writable tree": "os.chmod('tree', 0o700)",
    "writable git": "os.chmod('git', 0o700)",
    "pipe": OPEN + "os.mkfifo('tree/pipe', 0o400)",
    "second name": OPEN + "os.link('tree/file', 'tree/second')",
    "second name elsewhere": OPEN + "os.link('tree/file', '../outside')",
    "pack with a second name": OPEN + f"os.link('git/objects/pack/pack-{COMMIT}.pack', '../outside')",
    "too many": OPEN + "[open(f'tree/{n}', 'w').close() or os.chmod(f'tree/{n}', 0o400) for n in range(60)]",
    "too deep": OPEN + "os.makedirs('tree/1/2/3/4/5/6'); [os.chmod(p, 0o500) for p, _, _ in os.walk('tree')]",
    "too large": OPEN + "f = open('tree/large', 'w'); f.truncate(300_000); f.close(); os.chmod('tree/large', 0o400)",
    "huge and sparse": OPEN
    + "f = open('tree/large', 'w'); f.truncate(1 << 40); f.close(); os.chmod('tree/large', 0o400)",
    "too large together": OPEN + "open('tree/a', 'w').truncate(150_000); os.chmod('tree/a', 0o400); "
    f"p = 'git/objects/pack/pack-{COMMIT}.pack'; os.chmod(p, 0o600); os.truncate(p, 150_000); os.chmod(p, 0o400)",
    "own configuration": OPEN + "os.chmod('git/config', 0o600); "
    "open('git/config', 'a').write('[core]\\n\\tfsmonitor = touch /tmp/x\\n'); os.chmod('git/config', 0o400)",
    "other configuration of the same length": OPEN + "old = open('git/config').read(); os.chmod('git/config', 0o600); "
    "open('git/config', 'w').write(old.replace('true', 'tru1')); os.chmod('git/config', 0o400)",
    "configuration that is a link": OPEN + "os.unlink('git/config'); os.symlink('/etc/gitconfig', 'git/config')",
    "no configuration": OPEN + "os.unlink('git/config')",
    "hooks": OPEN + "os.mkdir('git/hooks', 0o500)",
    "other work tree": OPEN + "open('git/commondir', 'w').write('/etc'); os.chmod('git/commondir', 0o400)",
    "alternates": OPEN + "os.mkdir('git/objects/info'); open('git/objects/info/alternates', 'w').write('/')",
    "loose object": OPEN + "os.mkdir('git/objects/aa'); os.chmod('git/objects/aa', 0o500)",
    "empty tree with content": OPEN + "os.mkdir('git/objects/4b'); "
    "p = 'git/objects/4b/825dc642cb6eb9a060e54bf8d69288fbee4904'; open(p, 'w').write('x'); os.chmod(p, 0o400); "
    "os.chmod('git/objects/4b', 0o500)",
    "loose ref": OPEN + "os.mkdir('git/refs/heads'); os.chmod('git/refs/heads', 0o500)",
    "two packs": OPEN + "[open(f'git/objects/pack/pack-{40 * \"2\"}.{k}', 'w').close() for k in ('pack', 'idx')]",
    "pack without index": OPEN + f"os.unlink('git/objects/pack/pack-{COMMIT}.idx')",
    "index of another pack": OPEN + f"os.rename('git/objects/pack/pack-{COMMIT}.idx', "
    f"'git/objects/pack/pack-{40 * '2'}.idx')",
    "unfinished pack": OPEN + f"os.rename('git/objects/pack/pack-{COMMIT}.pack', 'git/objects/pack/incoming.pack')",
    "pack that is a link": OPEN
    + f"p = 'git/objects/pack/pack-{COMMIT}.pack'; os.unlink(p); os.symlink('/etc/passwd', p)",
    "HEAD elsewhere": OPEN + "os.chmod('git/HEAD', 0o600); open('git/HEAD', 'w').write('ref: refs/heads/../../x\\n'); "
    "os.chmod('git/HEAD', 0o400)",
    "HEAD without an end": OPEN + "os.chmod('git/HEAD', 0o600); open('git/HEAD', 'w').write('ref: refs/heads/main'); "
    "os.chmod('git/HEAD', 0o400)",
    "repository in the tree": OPEN + "os.makedirs('tree/.git'); os.chmod('tree/.git', 0o500)",
    "file that leads to a repository": OPEN + "open('tree/.git', 'w').write('gitdir: folder'); "
    "os.chmod('tree/.git', 0o400)",
    "repository deeper in the tree": OPEN + "os.chmod('tree/folder', 0o700); os.mkdir('tree/folder/.GIT', 0o500); "
    "os.chmod('tree/folder', 0o500)",
    "link named .gitmodules": OPEN + "os.symlink('file', 'tree/.gitmodules')",
    "name with an escape sequence": OPEN + "os.mkdir('tree/\\x1b[2J', 0o500)",
    "tree that is a repository": OPEN + "os.mkdir('tree/refs', 0o500); os.mkdir('tree/objects', 0o500); "
    "open('tree/HEAD', 'w').write('ref: refs/heads/main\\n'); os.chmod('tree/HEAD', 0o400)",
    "tree that is a work tree": OPEN + "os.symlink('file', 'tree/HEAD'); os.symlink('file', 'tree/commondir')",
    "replaced history": OPEN + "os.chmod('git/packed-refs', 0o600); "
    f"open('git/packed-refs', 'a').write('{COMMIT} refs/replace/{40 * '2'}\\n'); os.chmod('git/packed-refs', 0o400)",
    "refs that are none": OPEN + "os.chmod('git/packed-refs', 0o600); "
    "open('git/packed-refs', 'w').write('ref: ../../x\\n'); os.chmod('git/packed-refs', 0o400)",
    "hidden room": OPEN + "import ctypes; d = os.open('tree/large', os.O_WRONLY | os.O_CREAT, 0o400); "
    "assert not ctypes.CDLL(None).fallocate(d, 1, ctypes.c_long(0), ctypes.c_long(5_000_000))",
    "long HEAD": OPEN + "os.chmod('git/HEAD', 0o600); open('git/HEAD', 'w').write('ref: refs/heads/' + 'x' * 5_000); "
    "os.chmod('git/HEAD', 0o400)",
}


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in LEFT.items()])
def test_what_should_not_be_there_is_not_published(incoming: Path, code: str, caplog: pytest.LogCaptureFixture) -> None:
    """Our error, and one line in the log that says what it was, without a name that hostile data chose."""
    with pytest.raises(InternalError):
        built(incoming, f"TREE, GIT = 'tree', 'git'; {code}{CLOSE if code.startswith(OPEN) else ''}")

    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert "The build child left" in caplog.text


CLOSE = "; [os.chmod(folder, 0o500) for folder in (TREE, GIT + '/refs', GIT + '/objects/pack', GIT + '/objects', GIT)]"


def test_what_looks_like_a_repository_and_is_none(incoming: Path) -> None:
    """A folder named HEAD makes none of it; deeper ones are written as they are, and reported."""
    make = (
        "os.mkdir('tree/HEAD', 0o500); os.mkdir('tree/refs', 0o500); os.chmod('tree/folder', 0o700); "
        "os.symlink('program', 'tree/folder/HEAD'); os.mkdir('tree/folder/refs', 0o500); os.chmod('tree/folder', 0o500)"
    )
    assert built(incoming, f"TREE, GIT = 'tree', 'git'; {OPEN}{make}{CLOSE}").build.entries == 8


def test_opening_and_closing_alone_changes_nothing(incoming: Path) -> None:
    """What the cases above have in common is not what is refused."""
    assert built(incoming, f"TREE, GIT = 'tree', 'git'; {OPEN}pass{CLOSE}").build.entries == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away and make devices")
@pytest.mark.parametrize(
    "harm",
    [
        lambda place: os.chown(place / "tree/file", NOBODY, NOBODY),
        lambda place: os.chown(place / "tree/folder", NOBODY, NOBODY),
        lambda place: os.lchown(place / "tree/link", NOBODY, NOBODY),
        lambda place: os.chown(place / "git", NOBODY, NOBODY),
        lambda place: os.mknod(place / "tree/device", 0o020400, os.makedev(1, 3)),
    ],
)
def test_what_is_somebody_elses_is_not_published(incoming: Path, harm: Callable[[Path], None]) -> None:
    """Neither files nor folders, links or devices."""
    make_version(incoming)
    harm(incoming)

    with pytest.raises(InternalError):
        inspect(incoming, LIMITS, on_progress=lambda: None)


def test_socket_is_not_published(incoming: Path) -> None:
    """Whoever opens one talks to a process."""
    make_version(incoming)
    (incoming / "tree").chmod(0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(incoming / "tree")  # its address has to be short
        listener.bind("socket")
        os.chdir(here)
    (incoming / "tree/socket").chmod(0o400)
    (incoming / "tree").chmod(0o500)

    with pytest.raises(InternalError):
        inspect(incoming, LIMITS, on_progress=lambda: None)


def test_disk_that_fails_is_no_fault_of_the_child(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the system is told."""
    make_version(incoming)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as failing:
        failing.setattr(os, "scandir", fail)
        with pytest.raises(SandboxUnavailable):
            inspect(incoming, LIMITS, on_progress=lambda: None)


def test_process_that_the_child_left_is_gone_before_the_look(incoming: Path) -> None:
    """What would plant a link a moment later is killed, and waited for."""
    code = (
        "os.chmod('tree', 0o700)\n"
        "if not os.fork():\n"
        "    while True:\n"
        "        try:\n"
        "            os.symlink('/etc', 'tree/planted')\n"
        "            os.unlink('tree/planted')\n"
        "        except OSError:\n"
        "            pass\n"
        "os.chmod('tree', 0o500)\n"
    )
    try:
        built(incoming, code)
    except CodeReposError:
        seen = True
    else:
        seen = False

    assert seen == os.path.lexists(incoming / "tree/planted")


def test_long_inspection_gives_signs_of_life(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is renewed meanwhile, and an inspection without end is a time-out."""
    told: list[Progress] = []
    monkeypatch.setattr(inspection, "_PROGRESS_ENTRIES", 1)
    monkeypatch.setattr(pipeline, "TICK_SECONDS", 0)
    built(incoming, on_progress=told.append)
    assert told[-1].phase == "publishing"

    subprocess.run(["chmod", "-R", "u+w", str(incoming)], check=True)
    subprocess.run(["rm", "-r", str(incoming)], check=True)
    incoming.mkdir()
    monkeypatch.setattr(pipeline, "INSPECTION_SECONDS", -1)
    with pytest.raises(CloneTimeout):
        built(incoming)


def test_nothing_is_published_that_does_not_reach_the_disk(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails as it is told to keep what was written has kept nothing."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, f"syncfs of {os.readlink(f'/proc/self/fd/{descriptor}')}")

    monkeypatch.setattr(linux, "sync_filesystem", fail)
    with pytest.raises(SandboxUnavailable) as raised:
        built(incoming)

    assert raised.value.fields["errno"] == "EIO"
    assert str(raised.value.__cause__) == f"[Errno 5] syncfs of {incoming}"


def test_a_disk_that_hangs_ends_the_clone_in_time(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is renewed until then, and nobody waits for the call."""
    told: list[Progress] = []
    released = threading.Event()
    monkeypatch.setattr(linux, "sync_filesystem", lambda _: released.wait(60))
    monkeypatch.setattr(pipeline, "TICK_SECONDS", 0)
    monkeypatch.setattr(pipeline, "INSPECTION_SECONDS", 1)
    try:
        with pytest.raises(CloneTimeout):
            built(incoming, on_progress=told.append, clone_seconds=3)
    finally:
        released.set()

    assert [one.phase for one in told].count("publishing") > 2
