"""Clones of random repositories are those of git; ``make fuzz`` compares for longer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coderepos.exceptions import RefNotFound
from tests.fuzz import clones
from tests.fuzz.clones import asked, substituted
from tests.fuzz.random_repositories import RandomRepository
from tests.support.reference_git import Listing

SECONDS = 20


@pytest.mark.slow
def test_clones_are_those_of_git(capsys: pytest.CaptureFixture[str]) -> None:
    """Trees byte for byte, HEAD, history and tags, from either protocol, at any depth and ref."""
    seed = random.SystemRandom().randrange(2**32)
    with capsys.disabled():
        print(f"\nSeed {seed}: python -m tests.fuzz.clones --seed {seed}")
    compared, wrong = clones.compare(seconds=SECONDS, seed=seed)
    assert not wrong
    assert compared


def with_a_file_more(folder: Path) -> Listing:
    """Return git's tree with a file that no clone of ours has."""
    return {b"only git has it": ("file", b""), **substituted(folder)}


def refuse(*_arguments: object, **_options: object) -> None:
    """Refuse to clone."""
    raise RefNotFound


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("substituted", with_a_file_more),
        ("asked", lambda git_dir, *arguments: asked(git_dir, *arguments) + git_dir.name.encode()),
        ("clone", refuse),
    ],
)
def test_a_difference_is_found(monkeypatch: pytest.MonkeyPatch, name: str, replacement: Callable[..., Any]) -> None:
    """Another tree, another history, and a refusal of ours are noticed and told with the seed."""
    monkeypatch.setattr(clones, name, replacement)
    compared, wrong = clones.compare(seconds=0, seed=5)
    assert compared == 0
    assert wrong.startswith("--seed 5, Variant(")


def test_a_seed_makes_the_same_repository_again(tmp_path: Path) -> None:
    """Refs are ids of all that they reach."""
    made = [RandomRepository(tmp_path / f"{number}.git", seed) for number, seed in enumerate((7, 7, 8))]
    first, second, third = (one.run("for-each-ref") for one in made)
    assert first == second != third
