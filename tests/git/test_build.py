"""The build child as a process, and what it leaves; the real git is the reference."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from coderepos.exceptions import CodeReposError, RemoteProtocolError
from coderepos.git.build import read_outcome, run, translated
from coderepos.git.confinement import profiles
from coderepos.git.limits import MB, Limits
from coderepos.git.wire import BuildReport, BuildRequest, dump_line, load_line, request_line
from tests.support import packs
from tests.support.bombs import bomb, doubling, tiny_copies, wide
from tests.support.build_child import LIMITS, Built, built_here, child, outcome_of
from tests.support.git import git_bytes
from tests.support.packs import (
    FILE,
    LINK,
    PROGRAM,
    Line,
    Object,
    blob,
    copy,
    delta,
    entry,
    entry_header,
    ofs_delta,
)

CONTENT = blob()
ROOT = packs.tree(Line(FILE, b"file", CONTENT.id))
HEAD = packs.commit(ROOT)
PACK = packs.pack([HEAD, ROOT, CONTENT])

PEAK_MB = 300
SECONDS = 5


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    """The folder that a child may write into."""
    return tmp_path / "incoming"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working tree of the real git with links, programs, folders, tags and a history."""
    folder = tmp_path / "work"
    git_bytes("init", "-q", "-b", "main", folder)
    for number in range(30):
        (folder / f"folder{number % 3}/deep/er").mkdir(parents=True, exist_ok=True)
        (folder / f"folder{number % 3}/deep/er/{number}").write_text(f"{number}\n" * 500)
        (folder / "changing").write_text("\n".join(str(line + (line == number)) for line in range(500)))
        if not number:
            (folder / "program").write_text("#!/bin/sh\n")
            (folder / "program").chmod(0o755)
            (folder / "empty").touch()
            (folder / "link").symlink_to("folder0/deep")
            (folder / "zeros").write_bytes(bytes(2 * 65_536))
        git_bytes("-C", folder, "add", "-A")
        git_bytes("-C", folder, "commit", "-q", "-m", f"Commit {number}")
    git_bytes("-C", folder, "tag", "-a", "-m", "one", "v1", "HEAD~3")
    git_bytes("-C", folder, "tag", "-a", "-m", "nested", "v2", "v1")
    git_bytes("-C", folder, "tag", "light", "HEAD~2")
    return folder


def cloned(work: Path, *options: str) -> tuple[bytes, str, list[list[str]]]:
    """Return the pack of everything, the commit of HEAD and the tags, as a fetch would bring them."""
    at = work / ".git"
    content = git_bytes("pack-objects", "-q", "--stdout", "--all", "--revs", "--delta-base-offset", *options, at=at)
    refs = git_bytes("for-each-ref", "--format=%(refname) %(objectname)", "refs/tags", at=at).decode().splitlines()
    return content, git_bytes("rev-parse", "HEAD", at=at).decode().strip(), [line.split() for line in refs]


def modes(folder: Path) -> set[str]:
    """Return the modes of everything below a folder that is no link."""
    return {
        stat.filemode(status.st_mode)
        for at, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if not stat.S_ISLNK((status := os.lstat(os.path.join(at, name))).st_mode)
    }


def test_a_clone_is_what_git_clones(work: Path, incoming: Path, tmp_path: Path) -> None:
    """History, refs and tree are those of ``git clone``; git's own check finds no fault; nothing is writable."""
    content, head, tags = cloned(work)
    built = child(incoming, content, outcome_of(content, head, tags=tuple(map(tuple, tags))))
    assert built.status == 0, built.last
    report = BuildReport.from_json(built.last)
    assert report.commit_id == head
    assert set(report.seconds) == {"scan", "resolve", "index", "checkout"}
    at = incoming / "git"
    assert git_bytes("fsck", "--full", "--strict", at=at) == b""
    assert git_bytes("log", "--format=%H", at=at) == git_bytes("log", "--format=%H", at=work / ".git")
    assert git_bytes("for-each-ref", at=at) == git_bytes("for-each-ref", at=work / ".git")
    assert git_bytes("symbolic-ref", "HEAD", at=at) == b"refs/heads/main\n"
    git_bytes("clone", "-q", "--no-local", f"file://{work}", tmp_path / "clone")
    listed = ["find", ".", "-path", "./.git", "-prune", "-o", "-type", "l", "-printf", r"%p %l\n", "-o", "-type", "f"]
    listed += ["-perm", "/100", "-printf", r"%p program\n", "-o", "-printf", r"%p %y\n"]
    lists = [subprocess.check_output(listed, cwd=one) for one in (tmp_path / "clone", incoming / "tree")]
    assert sorted(lists[0].splitlines()) == sorted(lists[1].splitlines())
    difference = ["diff", "-r", "--no-dereference", "-x", ".git", str(tmp_path / "clone"), str(incoming / "tree")]
    assert subprocess.run(difference, check=True, capture_output=True).stdout == b""
    assert modes(incoming) == {"dr-x------", "-r--------", "-r-x------"}
    assert stat.S_IMODE(incoming.stat().st_mode) == 0o700
    index = next(at.glob("objects/pack/*.idx"))
    git_bytes("index-pack", "-o", tmp_path / "idx", index.with_suffix(".pack"))
    assert index.read_bytes() == (tmp_path / "idx").read_bytes()


def test_the_group_may_read_what_it_shall(work: Path, incoming: Path) -> None:
    """With a group, files are 0440, programs and folders 0550."""
    content, head, _ = cloned(work)
    built = child(incoming, content, outcome_of(content, head), group_readable=True)
    assert built.status == 0, built.last
    assert modes(incoming) == {"dr-xr-x---", "-r--r-----", "-r-xr-x---"}


def test_a_shallow_history_ends_where_it_was_cut(work: Path, incoming: Path, tmp_path: Path) -> None:
    """Commits without their parents are listed, so that git does not miss them."""
    git_bytes("clone", "-q", "--depth=2", "--bare", f"file://{work}", tmp_path / "shallow.git")
    at = tmp_path / "shallow.git"
    content = git_bytes("pack-objects", "-q", "--stdout", "--all", "--revs", at=at)
    shallow = tuple((at / "shallow").read_text().split())
    head = git_bytes("rev-parse", "HEAD", at=at).decode().strip()
    built_here(incoming, content, outcome_of(content, head, shallow=(*shallow, "1" * 40)))
    assert (incoming / "git/shallow").read_text().split() == list(shallow)
    assert git_bytes("fsck", "--full", "--strict", at=incoming / "git") == b""
    assert len(git_bytes("log", "--oneline", at=incoming / "git").splitlines()) == 2


def test_a_tag_is_checked_out_detached(incoming: Path) -> None:
    """An annotated tag of a tag leads to its commit; HEAD is that commit, and the tag is kept with it."""
    inner = packs.tag(HEAD, b"inner")
    outer = packs.tag(inner, b"outer")
    content = packs.pack([outer, inner, HEAD, ROOT, CONTENT])
    report = built_here(incoming, content, outcome_of(content, outer, ref_name="refs/tags/outer"))
    assert report.commit_id == HEAD.id
    assert (incoming / "git/HEAD").read_text() == HEAD.id + "\n"
    assert (incoming / "git/packed-refs").read_text().splitlines()[1:] == [f"{outer.id} refs/tags/outer", f"^{HEAD.id}"]
    assert git_bytes("rev-parse", "refs/tags/outer^{}", at=incoming / "git").decode().strip() == HEAD.id


def test_a_commit_by_id_has_no_ref(incoming: Path) -> None:
    """HEAD is detached and nothing else names the commit."""
    built_here(incoming, PACK, outcome_of(PACK, HEAD, ref_name=""))
    assert (incoming / "git/HEAD").read_text() == HEAD.id + "\n"
    assert len((incoming / "git/packed-refs").read_text().splitlines()) == 1
    assert git_bytes("log", "--format=%H", at=incoming / "git").decode().strip() == HEAD.id


def test_refs_are_sorted_and_only_those_of_the_pack(incoming: Path) -> None:
    """A tag whose object did not come along is left out."""
    tags = (("refs/tags/z", HEAD.id), ("refs/tags/a", HEAD.id), ("refs/tags/gone", "1" * 40), ("refs/tags/é", HEAD.id))
    built_here(incoming, PACK, outcome_of(PACK, HEAD, tags=tags))
    names = [line.split(" ", 1)[1] for line in (incoming / "git/packed-refs").read_text().splitlines()[1:]]
    assert names == ["refs/heads/main", "refs/tags/a", "refs/tags/z", "refs/tags/é"]
    assert git_bytes("fsck", "--full", "--strict", at=incoming / "git") == b""


def chain(length: int) -> list[Object]:
    """Return a commit and tags of each other on top of it."""
    made = [HEAD]
    for _ in range(length):
        made.append(packs.tag(made[-1]))
    return made


@pytest.mark.parametrize(
    ("objects", "failure"),
    [
        pytest.param([CONTENT], ("ref_not_found", "no commit"), id="blob"),
        pytest.param([ROOT, CONTENT], ("ref_not_found", "no commit"), id="tree"),
        pytest.param([packs.tag(ROOT), ROOT, CONTENT], ("ref_not_found", "no commit"), id="tag of a tree"),
        pytest.param([packs.tag(HEAD)], ("ref_not_found", "no commit"), id="tag of what is missing"),
        pytest.param([*chain(30)[:0:-1], ROOT], ("ref_not_found", "no commit"), id="30 nested tags of what is missing"),
        pytest.param([Object("tag", b"no tag")], ("unsafe_repository", "malformed tag"), id="malformed tag"),
        pytest.param([Object("commit", b"no commit")], ("unsafe_repository", "malformed commit"), id="malformed"),
        pytest.param([HEAD], ("unsafe_repository", "object of a tree entry missing"), id="tree missing"),
        pytest.param([packs.commit(CONTENT), CONTENT], ("unsafe_repository", "type of a tree entry"), id="no tree"),
    ],
)
def test_a_wanted_object_that_leads_to_no_tree_is_refused(
    incoming: Path, objects: list[Object], failure: tuple[str, str | None]
) -> None:
    """Tags are followed to a commit and the commit to its tree, a bounded number of steps."""
    content = packs.pack(objects)
    with pytest.raises(CodeReposError) as caught:
        built_here(incoming, content, outcome_of(content, objects[0]))
    assert (caught.value.code, caught.value.fields.get("reason")) == failure


def test_the_git_data_count_as_well(incoming: Path) -> None:
    """Pack, index and tree together may not pass the limit of the disk."""
    report = built_here(incoming, PACK, outcome_of(PACK, HEAD))
    used = report.git_bytes + report.tree_bytes
    files = [path.stat().st_size for path in (incoming / "git").rglob("*") if path.is_file()]
    assert report.git_bytes == sum(files)
    built_here(incoming.with_name("fits"), PACK, outcome_of(PACK, HEAD), Limits(disk_bytes=used))
    with pytest.raises(CodeReposError) as caught:
        built_here(incoming.with_name("passes"), PACK, outcome_of(PACK, HEAD), Limits(disk_bytes=used - 1))
    assert (caught.value.code, caught.value.fields) == ("repository_too_large", {"figure": used, "limit": used - 1})


@pytest.mark.parametrize(
    ("outcome", "failure"),
    [
        (None, ("remote_protocol_error", "fetch ended early")),
        (outcome_of(PACK[:-1], HEAD), ("remote_protocol_error", "size of the pack")),
        (outcome_of(PACK, "1" * 40), ("remote_protocol_error", "wanted object missing")),
    ],
    ids=["no outcome", "other size", "other commit"],
)
def test_a_fetch_that_says_something_else_is_not_believed(incoming: Path, outcome: Any, failure: Any) -> None:
    """Without an outcome, or with one that does not fit the pack, no tree is written."""
    built = child(incoming, PACK, outcome)
    assert (built.status, built.failure) == (1, failure)
    assert not (incoming / "tree").exists()


@pytest.mark.parametrize(
    "lines", [[], [b"no json\n"], [b"[]\n"], [b"{}\n"]], ids=["nothing", "no json", "no object", "no request"]
)
def test_a_request_that_is_none_ends_the_child(incoming: Path, lines: list[bytes]) -> None:
    """The pipeline made a mistake: said so, nothing done."""
    built = child(incoming, PACK, lines=lines)
    assert (built.status, built.failure) == (1, ("internal_error", None))
    assert list(incoming.iterdir()) == []


def test_an_outcome_that_is_none_is_our_own_fault(incoming: Path) -> None:
    """The pipeline has checked it, so a bad one is no fault of the remote."""
    request = request_line(BuildRequest(incoming=str(incoming), limits=LIMITS, min_level=1))
    built = child(incoming, PACK, lines=[request, b'{"event":"outcome"}\n'])
    assert built.failure == ("internal_error", None)


def test_the_events_come_in_order(incoming: Path) -> None:
    """First how it is confined, then how far it is, at the end one report."""
    built = child(incoming, PACK, outcome_of(PACK, HEAD))
    assert [event["event"] for event in built.events] == ["started", *["progress"] * 4, "report"]
    assert [event["phase"] for event in built.events[1:-1]] == ["receiving", "receiving", "resolving", "writing"]
    assert built.events[0]["isolation"]["level"] >= 1
    assert built.events[2]["objects"] == built.events[2]["total_objects"] == 3


def test_an_isolation_that_is_not_to_be_had_is_refused(incoming: Path) -> None:
    """Nothing is read from the pack below the wanted level."""
    incoming.mkdir()
    request = request_line(BuildRequest(incoming=str(incoming), limits=LIMITS, min_level=4))
    built = child(incoming, PACK, lines=[request])
    assert built.failure[0] == "isolation_unavailable"
    assert list(incoming.iterdir()) == []


@pytest.fixture
def unconfined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the child's code in this process, which has to stay free."""
    monkeypatch.setattr(profiles, "confine_build", lambda _request: {"level": 1})


@pytest.mark.usefixtures("unconfined")
def test_the_whole_child_runs_in_one_function(incoming: Path) -> None:
    """What ``main`` runs, without a process of its own."""
    incoming.mkdir()
    request = request_line(BuildRequest(incoming=str(incoming), limits=LIMITS, min_level=1))
    outcome = dump_line({"event": "outcome", **asdict(outcome_of(PACK, HEAD))})
    events: list[Any] = []
    assert run(io.BytesIO(request + outcome), packs.descriptor(PACK), events.append) == 0
    assert BuildReport.from_json(load_line(dump_line(events[-1]))).commit_id == HEAD.id
    assert run(io.BytesIO(request + outcome), packs.descriptor(PACK), events.append) == 1
    assert (events[-1]["code"], events[-1]["fields"]) == ("sandbox_unavailable", {"errno": "EEXIST"})
    assert any(place.startswith("bare_repository.py:") for place in events[-1]["trace"])
    assert run(io.BytesIO(b"{}"), packs.descriptor(PACK), events.append) == 1


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (OSError(errno.ENOSPC, ""), "sandbox_full", "ENOSPC"),
        (OSError(errno.EDQUOT, ""), "sandbox_full", "EDQUOT"),
        (OSError(errno.EFBIG, ""), "sandbox_unavailable", "EFBIG"),
        (OSError(errno.EIO, ""), "sandbox_unavailable", "EIO"),
        (OSError(errno.EROFS, ""), "sandbox_unavailable", "EROFS"),
        (OSError(errno.EEXIST, ""), "sandbox_unavailable", "EEXIST"),
        (OSError(errno.ENOMEM, ""), "out_of_memory", "ENOMEM"),
        (OSError(errno.EBADF, ""), "internal_error", "EBADF"),
        (MemoryError(), "out_of_memory", None),
        (ZeroDivisionError(), "internal_error", None),
    ],
)
def test_what_the_machine_lacks_is_told_apart(error: Exception, code: str, name: str | None) -> None:
    """Space, memory, a working disk: each has its own error, which names that of the system."""
    told = translated(error)

    assert (told.code, told.fields.get("errno")) == (code, name)
    assert told.retryable


def test_no_outcome_means_that_the_fetch_failed() -> None:
    """The end of standard input stops the build."""
    with pytest.raises(RemoteProtocolError):
        read_outcome(io.BytesIO(b""), LIMITS)


def test_a_full_disk_ends_the_child_with_its_name(incoming: Path) -> None:
    """A file that may not grow is a full disk to the child, which says so."""
    big = blob(os.urandom(300_000))
    content = packs.pack([big])
    limits = Limits(disk_bytes=100_000, wire_bytes=0)
    built = child(incoming, content, None, limits)
    assert built.failure[0] == "repository_too_large"
    limits = Limits(disk_bytes=0, wire_bytes=400_000, receive_seconds=1)
    built = child(incoming.with_name("other"), content, outcome_of(content, big), limits)
    assert built.failure[0] == "ref_not_found"


def mutations(content: bytes) -> Iterator[bytes]:
    """Yield copies with one byte changed, by three masks each."""
    for at in range(len(content)):
        for mask in (0x01, 0x20, 0xFF):
            yield content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]


@pytest.mark.slow
def test_no_changed_byte_brings_an_unknown_error(tmp_path: Path) -> None:
    """Trees, commits, names and links that are off by one byte are built or refused, nothing else."""
    target = blob(b"file")
    lines = (Line(FILE, b"file", CONTENT.id), Line(LINK, b"link", target.id), Line(PROGRAM, b"run", CONTENT.id))
    for kind in ("tree", "commit", "tag"):
        root = packs.tree(*lines)
        head = packs.commit(root)
        mark = packs.tag(head)
        whole = {"tree": root, "commit": head, "tag": mark}[kind]
        for number, changed in enumerate(mutations(whole.content)):
            one = Object(kind, changed)
            head = packs.commit(one) if kind == "tree" else one if kind == "commit" else head
            wanted = one if kind == "tag" else head
            content = packs.pack(dict.fromkeys([wanted, head, one, root, CONTENT, target]))
            try:
                built_here(tmp_path / f"{kind}{number}", content, outcome_of(content, wanted))
            except CodeReposError as error:
                assert error.code in {"unsafe_repository", "ref_not_found"}  # noqa: PT017 - some pass, some don't


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "zlib bomb of 512 MB": (
        lambda: packs.pack(raw=[entry_header(3, 512 * MB) + bomb(512 * MB)]),
        "object_too_large",
    ),
    "zlib bomb of 2 GB": (lambda: packs.pack(raw=[entry_header(3, 2_000 * MB) + bomb(512 * MB)]), "object_too_large"),
    "zlib bomb that says one byte": (
        lambda: packs.pack(raw=[entry_header(3, 1) + bomb(512 * MB)]),
        "remote_protocol_error",
    ),
    "objects of 100 MB": (
        lambda: packs.pack(raw=[entry_header(3, 100 * MB) + bomb(100 * MB)] * 20),
        "inflated_too_large",
    ),
    "delta of 1 GB": (
        lambda: packs.pack([CONTENT], raw=[packs.ref_delta(CONTENT.id, delta(8, 10**9, copy(0, 8)))]),
        "object_too_large",
    ),
    "delta of 2^40": (
        lambda: packs.pack([CONTENT], raw=[packs.ref_delta(CONTENT.id, delta(8, 2**40, copy(0, 8)))]),
        "object_too_large",
    ),
    "100 deltas of 64 MB": (lambda: packs.pack(raw=list(wide(100, 64 * MB, 1))), "inflated_too_large"),
    "two deltas of 70 MB": (lambda: packs.pack(raw=list(wide(2, 70 * MB, 1))), "remote_protocol_error"),
    "doubling chain": (lambda: packs.pack(raw=list(doubling(20, 1_000))), "object_too_large"),
    "doubling chain below the limit": (lambda: packs.pack(raw=list(doubling(16, 1_000))), "remote_protocol_error"),
    "delta of 96 MB": (
        lambda: packs.pack(
            raw=[
                base := entry_header(3, 100 * MB) + bomb(100 * MB),
                ofs_delta(len(base), tiny_copies()),
            ]
        ),
        "object_too_large",
    ),
    "header of 2^32-1": (lambda: packs.sealed(packs.header(2**32 - 1)), "too_many_objects"),
    "a million objects": (lambda: packs.sealed(packs.header(10**6) + entry(CONTENT) * 10**6), "too_many_objects"),
    "500,000 objects": (
        lambda: packs.sealed(packs.header(500_000) + entry(CONTENT) * 500_000),
        "remote_protocol_error",
    ),
    "endless pack": (
        lambda: packs.header(100_000) + (entry_header(3, 2 * MB) + zlib.compress(os.urandom(2 * MB), 0)) * 51,
        "repository_too_large",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pack_costs_little(name: str, incoming: Path) -> None:
    """Each ends with its own error, in bounded memory and time."""
    make, code = HOSTILE[name]
    content = make()
    built: Built = child(incoming, content, outcome_of(content, "1" * 40))
    print(f"{name}: {len(content) / MB:.1f} MB, {built.seconds:.2f} s, {built.peak_mb:.0f} MB, {built.failure}")
    assert built.last.get("code") == code
    assert built.peak_mb <= PEAK_MB
    assert built.seconds <= SECONDS
