"""Trees that Git would never write but checks out; ``git clone`` is the reference."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest

from coderepos.exceptions import TooManyEntries, UnsafeRepository
from coderepos.git.limits import Limits
from tests.support import packs
from tests.support.build_child import built_of
from tests.support.git import git_run
from tests.support.packs import FILE, FOLDER, GITLINK, LINK, PROGRAM, Line, Object, blob
from tests.support.reference_git import cloned_by_git, cloned_by_us, listing

ONE, TWO, TARGET = blob(b"one\n"), blob(b"two\n"), blob(b"target")
EMPTY = packs.tree()
X = packs.tree(Line(FILE, b"x", ONE.id))
Y = packs.tree(Line(FILE, b"y", TWO.id), Line(FOLDER, b"x", X.id))
HOLLOW = packs.tree(Line(FOLDER, b"x", EMPTY.id))
TWICE = packs.tree(
    Line(FOLDER, b"x", Y.id),
    Line(FILE, b"x", TWO.id),
    Line(FOLDER, b"x", X.id),
    Line(FOLDER, b"x", X.id),
    is_sorted=False,
)
OBJECTS = (ONE, TWO, TARGET, EMPTY, X, Y, HOLLOW, TWICE)
KINDS = (
    (FILE, ONE),
    (PROGRAM, TWO),
    (LINK, TARGET),
    (GITLINK, ONE),
    *((FOLDER, one) for one in (EMPTY, X, Y, HOLLOW, TWICE)),
)


def root_of(*kinds: tuple[bytes, Object]) -> Object:
    """Return a tree with an entry of the same name for each, and another one in between."""
    lines = [Line(mode, b"twin", one.id) for mode, one in kinds]
    return packs.tree(lines[0], Line(FILE, b"twin.x", ONE.id), *lines[1:], is_sorted=False)


@pytest.mark.parametrize("kinds", list(itertools.product(KINDS, repeat=2)))
def test_a_name_twice_is_checked_out_as_git_does(tmp_path: Path, kinds: tuple[tuple[bytes, Object], ...]) -> None:
    """https://github.com/Behat/Behat/issues/341: a tree with a file twice, which every client must be able to clone."""
    root = root_of(*kinds)
    status, expected = cloned_by_git(tmp_path, OBJECTS, root)
    report, found = cloned_by_us(tmp_path, OBJECTS, root)
    assert (status, found) == (0, expected)
    assert report.substitutions["duplicate"] >= 1
    assert "duplicate: twin" in report.substituted_paths


@pytest.mark.parametrize("seed", range(12))
def test_a_name_many_times_is_checked_out_as_git_does(tmp_path: Path, seed: int) -> None:
    """Directories of one name become one, a file takes the place of all before it, at any depth."""
    chance = random.Random(seed)
    root = root_of(*chance.choices(KINDS, k=chance.randint(3, 6)))
    status, expected = cloned_by_git(tmp_path, OBJECTS, root)
    _, found = cloned_by_us(tmp_path, OBJECTS, root)
    assert (status, found) == (0, expected)


def test_directories_that_become_one_cost_no_power_of_two(tmp_path: Path) -> None:
    """Each level has every directory of the next one twice; what they become is counted against the limit."""
    level = [X, Y]
    objects = list(OBJECTS)
    for _ in range(40):
        level = [
            packs.tree(*(Line(FOLDER, b"d", one.id) for one in order), Line(FOLDER, b"e", order[0].id), is_sorted=False)
            for order in (level, level[::-1])
        ]
        objects += level
    head = packs.commit(level[0])
    with pytest.raises(TooManyEntries):
        built_of(tmp_path / "ours", [*objects, head], head, Limits(entries=5_000))


MODES = [
    *(b"100664", b"100600", b"100000", b"100111", b"100654", b"107777", b"104644"),
    *(b"0100644", b"00000000000000100755", b"1000100644", b"40000100644", b"300000"),
    *(b"120777", b"0120000", b"160755", b"167777"),
    *(b"0", b"644", b"20644", b"10644", b"60000", b"140000", b"170000", b"777777", b"200000"),
]
DIRECTORY_MODES = [b"40755", b"040000", b"0040000", b"44000", b"47777", b"1040000"]


@pytest.mark.parametrize("mode", [*MODES, *DIRECTORY_MODES])
def test_a_mode_that_git_never_wrote_is_taken_as_git_takes_it(tmp_path: Path, mode: bytes) -> None:
    """https://github.com/Behat/Behat/issues/341: other bits count for nothing, an unknown type is a submodule's."""
    line = Line(mode, b"odd", X.id if mode in DIRECTORY_MODES else ONE.id)
    root = packs.tree(line, Line(FILE, b"other", TWO.id), is_sorted=False)
    status, expected = cloned_by_git(tmp_path, OBJECTS, root)
    report, found = cloned_by_us(tmp_path, OBJECTS, root)
    assert (status, found) == (0, expected)
    is_usual = mode.lstrip(b"0") in (b"100644", b"100664", b"100755", b"40000", b"120000", b"160000")
    assert report.substitutions.get("mode", 0) == (0 if is_usual else 1)


@pytest.mark.parametrize("mode", [b"", b"100844", b"-100644", b"+100644", b"0x81a4", b"100644\t"])
def test_a_mode_that_git_refuses_is_refused(tmp_path: Path, mode: bytes) -> None:
    """Only octal digits make one."""
    root = packs.tree(Line(mode, b"odd", ONE.id))
    status, _ = cloned_by_git(tmp_path, OBJECTS, root)
    with pytest.raises(UnsafeRepository):
        cloned_by_us(tmp_path, OBJECTS, root)
    assert status


def test_entries_in_any_order_are_written(tmp_path: Path) -> None:
    """Git reads them one after the other."""
    lines = [Line(FILE, b"z", ONE.id), Line(FOLDER, b"m", X.id), Line(FILE, b"a", TWO.id)]
    root = packs.tree(*lines, is_sorted=False)
    status, expected = cloned_by_git(tmp_path, OBJECTS, root)
    report, found = cloned_by_us(tmp_path, OBJECTS, root)
    assert (status, found, report.substitutions) == (0, expected, {})


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize(
    "lines", [(), ((FOLDER, EMPTY),), ((FOLDER, EMPTY), (FILE, ONE)), ((FOLDER, HOLLOW), (FILE, ONE))]
)
def test_the_empty_tree_need_not_be_there(
    tmp_path: Path, is_there: bool, lines: tuple[tuple[bytes, Object], ...]
) -> None:
    """https://github.com/jj-vcs/jj/issues/8884: Git knows the empty tree without having it; it makes no folder."""
    root = packs.tree(*(Line(mode, b"%d" % number, one.id) for number, (mode, one) in enumerate(lines)))
    objects = [one for one in (ONE, HOLLOW, EMPTY, root) if is_there or one != EMPTY]
    head = packs.commit(root)
    report = built_of(tmp_path / "ours", [*objects, head], head)
    status, expected = cloned_by_git(tmp_path, OBJECTS, root)
    assert (status, listing(tmp_path / "ours/tree")) == (0, expected)
    below = {EMPTY: 1, HOLLOW: 2}
    assert report.substitutions.get("empty_tree", 0) == sum(below.get(one, 0) for _, one in lines)
    checked = git_run(f"--git-dir={tmp_path / 'ours/git'}", "fsck", "--full", "--no-dangling")
    assert (checked.returncode, checked.stderr) == (0, b"")


def test_the_empty_blob_is_needed(tmp_path: Path) -> None:
    """Git knows it in newer versions only, and no server leaves it out."""
    with pytest.raises(UnsafeRepository):
        cloned_by_us(tmp_path, OBJECTS, packs.tree(Line(FILE, b"empty", blob(b"").id)))


GITMODULES = [
    b".gitmodules",
    b".GitModules",
    b".gitmodules .",
    b".gitmodules:x",
    b"gitmod~1",
    b"GI7EBA~1",
    b"a\\.gitmodules",
]


@pytest.mark.parametrize("name", [*GITMODULES, b"gitmod~5", b".gitmodules.txt", b"gi7eb~01", b".gitmodules\\x"])
@pytest.mark.parametrize("is_above", [False, True])
def test_a_link_in_the_place_of_gitmodules_is_judged_as_git_does(tmp_path: Path, name: bytes, is_above: bool) -> None:
    """Git refuses to check out such a link, and one below such a directory; a file may have the name."""
    inner = packs.tree(Line(LINK, b"link", TARGET.id))
    hidden = packs.tree(Line(FOLDER, b"left out\n", inner.id))
    lines = [Line(FOLDER, name, hidden.id)] if is_above else [Line(LINK, name, TARGET.id)]
    status, expected = cloned_by_git(tmp_path, [*OBJECTS, inner, hidden], packs.tree(*lines))
    try:
        _, found = cloned_by_us(tmp_path, [*OBJECTS, inner, hidden], packs.tree(*lines))
    except UnsafeRepository:
        assert status
    else:
        assert (status, found) == (0, {path: one for path, one in expected.items() if b"\n" not in path})
    second = tmp_path / "second"
    second.mkdir()
    _, found = cloned_by_us(second, OBJECTS, packs.tree(Line(FILE, name, ONE.id)))
    assert list(found) == [name]


@pytest.mark.parametrize("name", [b"a/b", b".g\xe2\x80\x8cit", b".git\xff"])
def test_our_own_rules_are_stricter_than_git_clone_and_not_than_its_fsck(tmp_path: Path, name: bytes) -> None:
    """What the documentation says of them is true: ``git clone`` takes such a name on Linux."""
    root = packs.tree(Line(FILE, name, ONE.id))
    status, _ = cloned_by_git(tmp_path, OBJECTS, root)
    assert not status
    assert git_run(f"--git-dir={tmp_path / 'bare.git'}", "fsck", "--strict").returncode
    with pytest.raises(UnsafeRepository):
        cloned_by_us(tmp_path, OBJECTS, root)


def test_what_is_below_a_name_that_is_left_out_counts(tmp_path: Path) -> None:
    """A folder of icons whose name begins with "Icon" and a carriage return: JetBrains/PhpStormProtocol#9."""
    inner = packs.tree(Line(FILE, b"a", ONE.id), Line(FOLDER, b"b", X.id), Line(FILE, b"c\n", ONE.id))
    root = packs.tree(Line(FOLDER, b"Icon\r", inner.id), Line(FILE, b"file", ONE.id), Line(FILE, b"new\nline", ONE.id))
    report, found = cloned_by_us(tmp_path, [*OBJECTS, inner], root)
    assert set(found) == {b"file"}
    assert report.substitutions == {"name": 1 + 4 + 1}
    assert sorted(report.substituted_paths) == ["name: Icon\\x0d", "name: new\\x0aline"]
    assert report.entries == 7


def test_many_of_one_kind_do_not_hide_the_others(tmp_path: Path) -> None:
    """Of each reason some paths are named."""
    lines = [Line(GITLINK, b"%03d" % number, "1" * 40) for number in range(150)]
    report, _ = cloned_by_us(tmp_path, OBJECTS, packs.tree(*lines, Line(FOLDER, b"z", EMPTY.id)))
    assert len(report.substituted_paths) == 100
    assert "empty_tree: z" in report.substituted_paths


def test_a_tree_that_is_all_left_out_is_an_empty_folder(tmp_path: Path) -> None:
    """The folder itself is harmless."""
    inner = packs.tree(Line(FILE, b"\x01", ONE.id))
    _, found = cloned_by_us(tmp_path, [*OBJECTS, inner], packs.tree(Line(FOLDER, b"d", inner.id)))
    assert os.listdir(tmp_path / "ours/tree/d") == []
    assert list(found) == [b"d"]
