"""Which symbolic links stay inside the tree, and what it costs to find out."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from coderepos.git.worktree.symlinks import Symlinks


def links_of(targets: Mapping[bytes, bytes]) -> dict[bytes, bool]:
    """Return whether each link, given by path and target, stays inside."""
    links = Symlinks()
    paths = {path: tuple(path.split(b"/")) for path in targets}
    for path, target in targets.items():
        links.add(paths[path], target)
    return {path: links.resolves_inside(names) for path, names in paths.items()}


@pytest.mark.parametrize(
    ("path", "target", "is_inside"),
    [
        (b"l", b"file", True),
        (b"l", b".", True),
        (b"l", b"..", False),
        (b"l", b"../tree/file", False),
        (b"l", b"/etc/passwd", False),
        (b"l", b"", False),
        (b"l", b"a\0b", False),
        (b"l", b"a/" * 2048, False),
        (b"d/l", b"..", True),
        (b"d/l", b"../..", False),
        (b"d/e/l", b"../../other//./file", True),
        (b"d/l", b"missing/../../file", True),
        (b"d/l", b"missing/../../../file", False),
        (b"l", b"l", False),
    ],
)
def test_a_single_link_is_judged_by_its_target(path: bytes, target: bytes, is_inside: bool) -> None:
    """Only a relative target that ends at or below the top of the tree is inside."""
    assert links_of({path: target}) == {path: is_inside}


def test_a_link_is_judged_by_the_links_on_its_way() -> None:
    """A chain leaves the tree where any of its links does, and ``..`` counts from where the link led."""
    found = links_of(
        {
            b"deep/er/up": b"../..",
            b"d/top": b"../deep/er/up",
            b"inside": b"d/top/file",
            b"outside": b"d/top/../file",
            b"out": b"/",
            b"through": b"out/x",
            b"one": b"two",
            b"two": b"one",
        }
    )

    assert {path.decode() for path, is_inside in found.items() if is_inside} == {"deep/er/up", "d/top", "inside"}


def test_what_counts_as_inside_is_inside_for_the_kernel(tmp_path: Path) -> None:
    """The kernel, asked to resolve every link that was accepted, never ends outside."""
    top = tmp_path / "tree"
    (top / "a/b").mkdir(parents=True)
    names = [b"..", b"a", b"b", b".", b"x", b"y"]
    places = [b"x", b"y", b"a/x", b"a/y", b"a/b/x", b"a/b/y"]
    targets = [b"/".join((one, two, three)) for one in names for two in names for three in names]
    for turn in range(len(targets)):
        chosen = {place: targets[(turn * 7 + number * 31) % len(targets)] for number, place in enumerate(places)}
        for place, target in chosen.items():
            os.symlink(target, os.fsencode(top) + b"/" + place)
        for place, is_inside in links_of(chosen).items():
            resolved = Path(os.fsdecode(os.path.realpath(os.fsencode(top) + b"/" + place)))
            assert not is_inside or resolved.is_relative_to(top), (chosen, place)
        for place in chosen:
            os.unlink(os.fsencode(top) + b"/" + place)


@pytest.mark.parametrize("target", [b"a/" * 2000, b"../" * 1300, b"l1/" + b"x/" * 1000], ids=["deep", "up", "chained"])
def test_many_long_links_cost_little(target: bytes) -> None:
    """Following 3,000 of the longest links takes less than two seconds of the processor."""
    started = time.process_time()

    links_of({b"l%d" % number: target for number in range(3_000)})

    assert time.process_time() - started < 2


def test_a_usual_tree_full_of_links_is_judged_to_its_end() -> None:
    """50,000 ordinary links stay below the bound on the work for hostile ones."""
    assert all(links_of({b"d%d/l%d" % (number % 99, number): b"../a/b/file" for number in range(50_000)}).values())
