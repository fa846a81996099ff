"""A pack in which something is missing is refused where ``git clone`` refuses it, and taken where it does not."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from coderepos.exceptions import CodeReposError, UnsafeRepository
from coderepos.git.pack import object_links
from coderepos.git.pack import resolver as resolving_module
from coderepos.git.pack.object_links import Links
from coderepos.git.pack.pack_file import COMMIT, TREE
from coderepos.git.worktree.tree_entries import DIRECTORY, GITLINK, parse_tree
from tests.support import packs
from tests.support.build_child import built_here, outcome_of
from tests.support.git import git_bytes, git_run
from tests.support.packs import FILE, FOLDER, Line, Object, blob, commit, tag, tree
from tests.support.packs import GITLINK as SUBMODULE
from tests.support.servers.cutting import CuttingServer

SECONDS = 12
MISSING = "1" * 40
EMPTY = Object("tree", b"")


def git_takes(folder: Path, content: bytes, head: Object, *, depth: int | None, shallow: list[str]) -> bool:
    """Ask the real git to clone from a server that sends this pack."""
    lines = [f"shallow {one}" for one in shallow]
    with CuttingServer(folder, head.id, (), lines=lines, pack=content) as server:
        limit = [] if depth is None else [f"--depth={depth}"]
        target = folder / f"clone-{time.monotonic_ns()}"
        done = git_run("clone", "--quiet", "--bare", "--single-branch", "--no-tags", *limit, server.url, target)
    return done.returncode == 0


def we_take(folder: Path, content: bytes, head: Object, *, shallow: list[str]) -> bool:
    """Build the pack in this process."""
    incoming = folder / f"incoming-{time.monotonic_ns()}"
    try:
        built_here(incoming, content, outcome_of(content, head, shallow=tuple(shallow)))
    except UnsafeRepository:
        return False
    return True


@pytest.fixture(autouse=True)
def two_cores_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process takes its part of even the smallest pack."""
    monkeypatch.setattr(resolving_module, "_MIN_BATCH_WORK", 1)
    monkeypatch.setattr(resolving_module, "cores", lambda: 2)


@pytest.mark.slow
def test_missing_objects_are_missed_where_git_misses_them(tmp_path: Path) -> None:
    """Random histories from which random objects are taken, whole and at a depth."""
    seed = random.SystemRandom().randrange(2**32)
    chance, ends, taken, refused = random.Random(seed), time.monotonic() + SECONDS, 0, 0
    while time.monotonic() < ends or not taken or not refused:
        history = _History(chance)
        depth = chance.choice((None, None, 1, 2, 3))
        objects, shallow = history.cut(depth)
        lacking = chance.sample(sorted(objects), chance.choice((0, 1, 1, 1, 2)) if len(objects) > 3 else 0)
        sent = [one for one in objects.values() if one.id not in lacking or one == history.head]
        content = _packed(tmp_path / f"source-{time.monotonic_ns()}", sent, chance)
        expected = git_takes(tmp_path, content, history.head, depth=depth, shallow=shallow)
        made = we_take(tmp_path, content, history.head, shallow=shallow)
        assert made == expected, f"Seed {seed}, depth {depth}, lacking {lacking}, git takes it: {expected}"
        taken, refused = taken + made, refused + (not made)


FIRST = commit(tree(Line(FILE, b"file", blob().id)))
ROOT = tree(Line(FILE, b"file", blob().id), Line(SUBMODULE, b"module", MISSING))
GOOD = [blob(), tree(Line(FILE, b"file", blob().id)), FIRST, ROOT]


def child_of(one: Object) -> Object:
    """Return a commit of the good tree after another one."""
    return commit(ROOT, one.id)


CASES: dict[str, list[Object]] = {
    "nothing missing": [*GOOD, child_of(FIRST)],
    "parent": [*GOOD, commit(ROOT, FIRST.id, MISSING)],
    "tree of a parent": [*GOOD, old := commit(MISSING), child_of(old)],
    "blob of an older tree": [
        *GOOD,
        lost := tree(Line(FILE, b"lost", MISSING)),
        old := commit(lost),
        child_of(old),
    ],
    "tree in an older tree": [
        *GOOD,
        lost := tree(Line(FOLDER, b"lost", MISSING)),
        old := commit(lost),
        child_of(old),
    ],
    "empty tree, which git knows": [*GOOD, old := commit(EMPTY), child_of(old)],
    "commit as a tree": [*GOOD, old := commit(FIRST), child_of(old)],
    "tree as a parent": [*GOOD, commit(ROOT, ROOT.id)],
    "blob as a directory": [
        *GOOD,
        lost := tree(Line(FOLDER, b"lost", blob().id)),
        old := commit(lost),
        child_of(old),
    ],
    "tree as a file": [
        *GOOD,
        lost := tree(Line(FILE, b"lost", ROOT.id)),
        old := commit(lost),
        child_of(old),
    ],
    "older tree that is cut off": [
        *GOOD,
        lost := Object("tree", ROOT.content[:-1]),
        old := commit(lost),
        child_of(old),
    ],
    "older tree with an empty name": [
        *GOOD,
        lost := tree(Line(FILE, b"", blob().id)),
        old := commit(lost),
        child_of(old),
    ],
    "older tree with odd modes": [
        *GOOD,
        lost := tree(
            Line(b"100600", b"a", blob().id),
            Line(b"0100644", b"b", blob().id),
            Line(b"040000", b"c", ROOT.id),
            Line(b"0", b"d", MISSING),
            Line(b"7777160000", b"e", MISSING),
            Line(b"120777", b"f", blob().id),
            Line(b"50000", b"g", MISSING),
        ),
        old := commit(lost),
        child_of(old),
    ],
    "older commit with a parent line cut off": [
        *GOOD,
        old := Object("commit", FIRST.content.replace(b"\nauthor", b"\nparent 1234\nauthor", 1)),
        child_of(old),
    ],
    "older commit without a tree": [*GOOD, old := Object("commit", b"author nobody\n" * 5), child_of(old)],
    "ids in capitals": [
        *GOOD,
        old := Object("commit", FIRST.content.replace(FIRST.content[5:45], FIRST.content[5:45].upper())),
        child_of(old),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_links_are_judged_as_git_judges_them(case: str, tmp_path: Path) -> None:
    """Types, shapes of trees and commits, and what Git knows without having it."""
    objects = CASES[case]
    head, content = objects[-1], packs.pack(dict.fromkeys(objects))

    assert we_take(tmp_path, content, head, shallow=[]) == git_takes(tmp_path, content, head, depth=None, shallow=[])


@pytest.mark.parametrize("shallow", [[], [FIRST.id]], ids=["whole", "shallow"])
@pytest.mark.parametrize(
    "more",
    [commit(MISSING), commit(ROOT, MISSING), tree(Line(FILE, b"x", MISSING)), Object("tree", b"x"), blob(b"x")],
    ids=["commit without its tree", "commit without its parent", "tree without its blob", "malformed tree", "blob"],
)
def test_what_no_ref_leads_to(more: Object, shallow: list[str], tmp_path: Path) -> None:
    """It counts for a whole history, as in Git, and not for a shallow one."""
    head = child_of(FIRST)
    content = packs.pack([*GOOD, more, head])
    expected = git_takes(tmp_path, content, head, depth=2 if shallow else None, shallow=shallow)

    assert we_take(tmp_path, content, head, shallow=shallow) == expected


def test_what_a_tag_leads_to(tmp_path: Path) -> None:
    """The history of a tag that is published is as whole as that of the branch."""
    head, old = child_of(FIRST), commit(ROOT, MISSING)
    content = packs.pack([*GOOD, head, old, tag(old)])
    tags = (("refs/tags/v1", tag(old).id),)
    with pytest.raises(UnsafeRepository) as caught:
        built_here(tmp_path, content, outcome_of(content, head, shallow=(FIRST.id,), tags=tags))

    assert caught.value.fields == {"reason": "object missing"}


def test_trees_are_split_as_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any mode that Git reads, names of any length, however the windows fall."""
    chance = random.Random(20_251_125)
    modes = (
        b"100644",
        b"100755",
        b"120000",
        b"40000",
        b"160000",
        b"0",
        b"040000",
        b"777777777",
        b"106000",
        b"60000",
        b"20000",
        b"04000",
        b"140000",
    )
    for _ in range(300):
        monkeypatch.setattr(object_links, "_WINDOW_BYTES", chance.choice((1, 30, 100, 1 << 20)))
        data = b"".join(
            b"%s %s\0%s"
            % (
                chance.choice(modes),
                (chance.randbytes(chance.choice((1, 3, 300))).replace(b"\0", b"x")),
                chance.choice((bytes(20), b"1" * 20, b"40000 x\0" * 2 + b"1234", chance.randbytes(20))),
            )
            for _ in range(chance.choice((0, 1, 2, 9)))
        )
        links = Links(100)
        links.add(TREE, data)
        parsed = [(mode, one) for mode, _, _, one in parse_tree(data, most=100)]
        assert not links.is_broken
        assert links.trees - {None} == {one for mode, one in parsed if mode == DIRECTORY}
        assert links.blobs - {None} == {one for mode, one in parsed if mode not in (DIRECTORY, GITLINK)}

        cut = data[: chance.randrange(len(data))] if data else b"1"
        try:
            list(parse_tree(cut, most=100))
        except CodeReposError:
            links.add(TREE, cut)
            assert links.is_broken


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        pytest.param(TREE, b"40000 " * 2_000_000, id="modes without end"),
        pytest.param(TREE, b"1" * 10_000_000, id="a long mode"),
        pytest.param(TREE, b"40000 " + b"x" * 10_000_000, id="a long name"),
        pytest.param(TREE, (b"40000 " + b"x" * 3_000_000 + bytes(21)) * 3, id="long names"),
        pytest.param(TREE, b"40000 x\0" * 2_000_000, id="ids of anything"),
        pytest.param(COMMIT, b"tree " + b"1" * 40 + b"\n" + (b"parent " + b"2" * 40 + b"\n") * 200_000, id="parents"),
        pytest.param(
            COMMIT, b"tree " + b"1" * 40 + b"\n" + (b"parent " + b"2" * 40 + b"\n") * 99_999 + b"parent x", id="x"
        ),
    ],
)
def test_splitting_costs_no_square(kind: int, data: bytes) -> None:
    """Whatever stands in a tree or a commit, each byte of it is looked at a few times."""
    started = time.process_time()
    Links(10).add(kind, data)

    assert time.process_time() - started < 3


class _History:
    """Commits with up to three parents, over trees that share most of what is in them."""

    def __init__(self, chance: random.Random) -> None:
        self._objects: dict[str, Object] = {}
        self._named: dict[str, list[str]] = {}
        self._commits: list[Object] = []
        for number in range(chance.randrange(1, 6)):
            files = [self._add(blob(b"%d\n" % chance.randrange(4) * 200)) for _ in range(3)]
            inner = self._tree(Line(FILE, b"a", files[0].id), Line(SUBMODULE, b"m", MISSING))
            root = self._tree(
                Line(FILE, b"b", files[1].id), Line(FOLDER, b"d", inner.id), Line(FILE, b"e", files[2].id)
            )
            parents = chance.sample(self._commits[-3:], min(len(self._commits), chance.choice((1, 1, 2, 3))))
            ids = [one.id for one in parents]
            self.head = self._add(commit(root, *ids, message=b"%d\n" % number), root.id)
            self._named[self.head.id] += ids
            self._commits.append(self.head)

    def _add(self, one: Object, *named: str) -> Object:
        self._objects[one.id] = one
        self._named[one.id] = list(named)
        return one

    def _tree(self, *lines: Line) -> Object:
        return self._add(tree(*lines), *(one for mode, _, one in lines if mode != SUBMODULE))

    def cut(self, depth: int | None) -> tuple[dict[str, Object], list[str]]:
        """Return the objects that so many generations reach, and the commits whose parents are cut off."""
        level, ends, found = {self.head.id}, [], {}
        seen: set[str] = set()
        for generation in range(depth or 1_000):
            following: set[str] = set()
            for one in level - seen:
                parents = {named for named in self._named[one] if self._objects[named].kind == "commit"}
                if depth and generation == depth - 1 and parents:
                    ends.append(one)
                following |= parents
            seen |= level
            level = following
        todo = list(seen)
        while todo:
            one = todo.pop()
            if one in found:
                continue
            found[one] = self._objects[one]
            todo += [named for named in self._named[one] if self._objects[named].kind != "commit"]
        return found, ends


def _packed(folder: Path, objects: list[Object], chance: random.Random) -> bytes:
    """Return a pack that Git makes of these, with deltas by offset or by id, or ours without any."""
    if chance.random() < 0.3:
        return packs.pack(objects)
    git_bytes("init", "-q", "--bare", folder)
    git_bytes("unpack-objects", "-q", at=folder, given=packs.pack(objects))
    how = chance.choice((["--delta-base-offset"], []))
    return git_bytes(
        "pack-objects", "-q", "--stdout", *how, at=folder, given="".join(f"{one.id}\n" for one in objects).encode()
    )
