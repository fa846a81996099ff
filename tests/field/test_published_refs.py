"""Which refs a sandbox gets; the real git reads them without complaint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from coderepos.git.wire import BuildReport
from tests.support import packs
from tests.support.build_child import built_here, outcome_of
from tests.support.git import git_bytes, git_run
from tests.support.packs import FILE, Line, Object, blob

ROOT = packs.tree(Line(FILE, b"file", blob().id))
FIRST = packs.commit(ROOT)
HEAD = packs.commit(ROOT, FIRST.id, message=b"second\n")
OTHER = packs.commit(packs.tree(Line(FILE, b"lie", blob().id)), message=b"a lie\n")
OBJECTS = (blob(), ROOT, FIRST, HEAD)


def built(folder: Path, *more: Object, wanted: Object = HEAD, **outcome: Any) -> BuildReport:
    """Build a pack of the history and these objects."""
    content = packs.pack([*OBJECTS, *more])
    return built_here(folder, content, outcome_of(content, wanted, **outcome))


def refs_of(folder: Path) -> dict[bytes, bytes]:
    """Return what git says of the refs, ids by name; its own check finds no fault with anything."""
    at = folder / "git"
    assert git_bytes("fsck", "--full", "--no-dangling", at=at) == b""
    lines = git_bytes("for-each-ref", "--format=%(objectname) %(refname)", at=at).splitlines()
    return {name: object_id for object_id, name in (line.split(b" ", 1) for line in lines)}


@pytest.mark.parametrize(
    "name",
    [
        f"refs/replace/{HEAD.id}",
        f"refs/replace/{FIRST.id}",
        "refs/notes/commits",
        "refs/stash",
        "refs/bisect/bad",
        "refs/pull/1/head",
        "refs/remotes/origin/main",
        "refs/headsx",
        "refs/original/refs/heads/main",
    ],
)
def test_only_heads_and_tags_are_written(tmp_path: Path, name: str) -> None:
    """A HEAD that points to ``refs/replace/`` would make the published history lie; the commit is checked out instead.

    https://git-scm.com/docs/git-replace: every command but those that check reachability follows such a ref.
    """
    lie = (OTHER, packs.tree(Line(FILE, b"lie", blob().id)))
    report = built(tmp_path / "ours", *lie, ref_name=name, head_branch="")
    assert (report.commit_id, (tmp_path / "ours/git/HEAD").read_text()) == (HEAD.id, f"{HEAD.id}\n")
    assert refs_of(tmp_path / "ours") == {}
    assert git_bytes("log", "--format=%H", at=tmp_path / "ours/git").split() == [HEAD.id.encode(), FIRST.id.encode()]


def test_tags_are_written_only_below_tags(tmp_path: Path) -> None:
    """What fetch calls a tag has its name checked once more."""
    tags = (("refs/tags/ok", HEAD.id), (f"refs/replace/{FIRST.id}", HEAD.id), ("refs/heads/evil", FIRST.id))
    report = built(tmp_path / "ours", tags=tags)
    assert set(refs_of(tmp_path / "ours")) == {b"refs/heads/main", b"refs/tags/ok"}
    assert report.substitutions == {"tag": 2}


def nested(depth: int, target: Object = HEAD) -> list[Object]:
    """Return tags of each other, the outermost last."""
    made = [target]
    for number in range(depth):
        made.append(packs.tag(made[-1], b"t%d" % number))
    return made[1:]


def test_tags_of_any_depth_are_followed(tmp_path: Path) -> None:
    """https://github.com/nektos/act/issues/5986: Git has no limit, so there is none here."""
    chain = nested(3_000)
    tags = tuple((f"refs/tags/{number}", one.id) for number, one in enumerate(chain))
    started = time.process_time()
    report = built(tmp_path / "branch", *chain, tags=tags)
    assert time.process_time() - started < 3  # each is read once, whatever lies on top of it
    assert report.substitutions == {}
    assert refs_of(tmp_path / "branch")[b"refs/tags/2999"] == chain[-1].id.encode()
    assert git_bytes("rev-parse", "refs/tags/2999^{}", at=tmp_path / "branch/git").strip() == HEAD.id.encode()

    report = built(tmp_path / "tag", *chain, wanted=chain[-1], ref_name="refs/tags/2999", tags=tags[-2:])
    assert report.commit_id == HEAD.id
    assert set(refs_of(tmp_path / "tag")) == {b"refs/tags/2999", b"refs/tags/2998"}


def test_tags_of_blobs_and_trees_are_written(tmp_path: Path) -> None:
    """https://github.com/jupyterlab/jupyterlab/issues/14342: whatever a tag names, others are wanted."""
    named = [packs.tag(ROOT, b"tree"), packs.tag(blob(), b"blob"), *nested(2, blob())]
    tags = tuple((f"refs/tags/{number}", one.id) for number, one in enumerate((*named, ROOT, blob())))
    report = built(tmp_path / "ours", *named, tags=tags)
    assert report.substitutions == {}
    found = refs_of(tmp_path / "ours")
    assert len(found) == 7
    assert (found[b"refs/tags/4"], found[b"refs/tags/5"]) == (ROOT.id.encode(), blob().id.encode())


LATER = packs.tag(packs.commit(ROOT, message=b"not in the pack\n"), b"later")
NOWHERE: dict[str, Object] = {
    "no tag at all": Object("tag", b"rubbish"),
    "empty": Object("tag", b""),
    "no type": Object("tag", b"object %s\ntag x\n\n" % HEAD.id.encode()),
    "unknown type": Object("tag", b"object %s\ntype stick\ntag x\n\n" % HEAD.id.encode()),
    "another type": Object("tag", b"object %s\ntype tree\ntag x\n\n" % HEAD.id.encode()),
    "no name": Object("tag", b"object %s\ntype commit\n\n" % HEAD.id.encode()),
    "target missing": LATER,
    "tag of one whose target is missing": packs.tag(LATER, b"even later"),
}


@pytest.mark.parametrize("tag", NOWHERE.values(), ids=NOWHERE)
def test_tags_that_lead_nowhere_are_left_out_and_counted(tmp_path: Path, tag: Object) -> None:
    """https://github.com/nektos/act/issues/5986: they are nobody's business while a branch is wanted."""
    tags = (("refs/tags/good", HEAD.id), ("refs/tags/über", tag.id))
    more = (tag, LATER) if "later" in str(tag.content) else (tag,)
    report = built(tmp_path / "ours", *more, tags=tags)
    assert report.substitutions == {"tag": 1}
    assert report.substituted_paths == ("tag: über",)
    names = git_bytes("for-each-ref", "--format=%(refname)", at=tmp_path / "ours/git").split()
    assert names == [b"refs/heads/main", b"refs/tags/good"]


def test_a_tag_that_did_not_come_along_is_not_counted(tmp_path: Path) -> None:
    """It belongs to a history that nobody asked for."""
    report = built(tmp_path / "ours", tags=(("refs/tags/elsewhere", OTHER.id),))
    assert report.substitutions == {}
    assert set(refs_of(tmp_path / "ours")) == {b"refs/heads/main"}


@pytest.mark.parametrize(
    ("names", "wanted", "kept"),
    [
        (["a", "a/b", "a/b/c", "a.b", "a-b"], None, ["a", "a.b", "a-b"]),
        (["a", "a/b", "a/b/c"], "a/b", ["a/b"]),
        (["a/b", "a/b/c", "b", "a/c"], "a", ["a", "b"]),
        (["a/b", "a/c"], None, ["a/b", "a/c"]),
    ],
)
def test_names_that_need_a_file_and_a_directory(
    tmp_path: Path, names: list[str], wanted: str | None, kept: list[str]
) -> None:
    """A server may keep its refs in a table where both exist; the wanted one stays, else the shorter one."""
    tags = tuple((f"refs/tags/{name}", HEAD.id) for name in names)
    report = built(tmp_path / "ours", tags=tags, ref_name=f"refs/tags/{wanted}" if wanted else "refs/heads/main")
    found = {name.decode().removeprefix("refs/tags/") for name in refs_of(tmp_path / "ours")} - {"refs/heads/main"}
    assert found == set(kept)
    assert report.substitutions.get("tag", 0) == len({*names, *kept}) - len(kept)
    for name in kept:
        assert git_bytes("rev-parse", f"refs/tags/{name}", at=tmp_path / "ours/git").strip() == HEAD.id.encode()


def test_many_names_below_each_other_cost_little(tmp_path: Path) -> None:
    """Each is compared with the one before alone."""
    tags = tuple((f"refs/tags/{number}/{'a/' * 500}b", HEAD.id) for number in range(900))
    started = time.process_time()
    report = built(tmp_path / "ours", tags=tags)
    assert time.process_time() - started < 3
    assert report.substitutions == {}


@pytest.mark.parametrize("name", [b"caf\xe9", "\u202eniam".encode(), "c1\u0085\u009b".encode(), b"-x", b"HEAD", b"@"])
def test_bytes_of_names_stay_bytes(tmp_path: Path, name: bytes) -> None:
    """https://github.com/libgit2/pygit2/pull/1329: names of refs are bytes, the same ones in the sandbox."""
    branch, tag = (f"refs/{kind}/".encode() + name for kind in ("heads", "tags"))
    text = branch.decode("utf-8", "surrogateescape")
    report = built(tmp_path / "ours", ref_name=text, tags=((tag.decode("utf-8", "surrogateescape"), FIRST.id),))
    assert report.substitutions == {}
    assert (tmp_path / "ours/git/HEAD").read_bytes() == b"ref: " + branch + b"\n"
    assert set(refs_of(tmp_path / "ours")) == {branch, tag}
    at = f"--git-dir={tmp_path / 'ours/git'}"
    assert git_run(at, "log", "--format=%H", branch).stdout.split() == [HEAD.id.encode(), FIRST.id.encode()]
    assert git_run(at, "rev-parse", tag).stdout.strip() == FIRST.id.encode()
