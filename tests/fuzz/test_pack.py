"""The corpus and some mutations keep to the contract, and what breaks it would be noticed."""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fuzz import pack as fuzzing
from tests.fuzz.model import entries_of, pack_of, relinked, wanted_of
from tests.fuzz.mutate import MUTATIONS, mutated
from tests.fuzz.pack import evaluated, fuzz, main, read
from tests.fuzz.seeds import CORPUS, seeds
from tests.support import packs
from tests.support.git import git_bytes
from tests.support.packs import FILE, Line, blob

SEED = 20_240_229


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus of two seeds that may be written to."""
    for name in ("plain", "links"):
        shutil.copy(CORPUS / f"{name}.pack", tmp_path)
    return tmp_path


def test_nothing_breaks_the_contract(tmp_path: Path) -> None:
    """The corpus, and then mutations for some seconds, are built or refused as they may be."""
    folder = shutil.copytree(CORPUS, tmp_path / "corpus")
    seed = random.SystemRandom().randrange(2**32)
    tally = fuzz(seconds=4, seed=seed, corpus=folder)

    assert not tally.saved, f"Seed {seed}, {tally.saved[0].read_bytes().hex()}"
    assert tally.inputs > len(list(CORPUS.glob("*.pack")))
    assert {"built", "remote_protocol_error"} <= set(tally.outcomes)


@pytest.mark.parametrize(("name", "content"), list(seeds()), ids=[name for name, _ in seeds()])
def test_a_seed_is_a_pack_that_git_reads(name: str, content: bytes, tmp_path: Path) -> None:
    """What is mutated is right before, and is in the corpus."""
    (tmp_path / "seed.pack").write_bytes(content)
    git_bytes("index-pack", tmp_path / "seed.pack")

    kept = (CORPUS / f"{name}.pack").read_bytes()
    assert [one.content for one in entries_of(kept)] == [one.content for one in entries_of(content)]


def test_every_mutation_changes_something() -> None:
    """None is without effect on every seed, and the same seed makes the same inputs."""
    inputs = [content for _, content in seeds()]
    for mutation in dict.fromkeys(MUTATIONS):
        chance = random.Random(SEED)
        assert any(mutation(content, chance) != content for content in inputs)
    assert mutated(inputs[0], random.Random(SEED)) == mutated(inputs[0], random.Random(SEED))


def test_a_changed_object_is_still_referred_to() -> None:
    """Trees, commits and deltas by id follow what they refer to, so that a changed blob is checked out."""
    root = packs.tree(Line(FILE, b"file", blob().id))
    entries = entries_of(packs.pack([blob(), root, packs.commit(root)]))
    changed = relinked(entries, 0, b"other")

    assert changed[0].object_id in changed[1].content
    assert changed[1].object_id.hex().encode() in changed[2].content
    assert wanted_of(changed) == changed[2].object_id.hex() != wanted_of(entries)
    assert read(pack_of(changed)) == ""


def test_an_unknown_exception_is_saved(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What brings a foreign exception about ends the run and is kept as an input."""

    def careless(content: bytes) -> str:
        if content != (CORPUS / "plain.pack").read_bytes():
            raise IndexError
        return ""

    tally = fuzz(seconds=5, seed=SEED, corpus=corpus, target=careless)

    assert tally.outcomes["IndexError"] == 1
    assert [path.parent for path in tally.saved] == [corpus]
    assert tally.saved[0] in set(corpus.glob("*.pack"))
    assert "IndexError came out" in capsys.readouterr().out


def test_an_endless_input_is_noticed() -> None:
    """Processor time is bounded, whatever the target catches."""

    def endless(content: bytes) -> str:
        while True:
            with suppress(Exception):
                sum(range(1_000))

    assert evaluated(endless, b"", seconds=0.2) == ("slow", "it took more than 0.2 seconds")


def test_a_large_input_is_noticed() -> None:
    """Memory is bounded."""
    resident_mb = fuzzing._peak_mb()

    def large(content: bytes) -> str:
        return str(len(b"x" * int((resident_mb + 2 * fuzzing.GROWTH_MB) * 10**6)))

    assert evaluated(large, b"")[1] == f"it took more than {fuzzing.GROWTH_MB} MB"


def test_the_command_tells_its_seed_and_fails_on_a_find(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run can be repeated, and its exit status says how it went."""
    calls = []

    def recorded(*, seconds: float, seed: int) -> fuzzing.Tally:
        calls.append((seconds, seed))
        return fuzz(seconds=0, seed=seed, corpus=corpus)

    monkeypatch.setattr(fuzzing, "fuzz", recorded)
    assert main(["--seconds", "1", "--seed", "5"]) == 0
    assert calls == [(1.0, 5)]
    assert "Seed 5\n2 inputs: built" in capsys.readouterr().out

    monkeypatch.setattr(fuzzing, "fuzz", lambda **_: fuzzing.Tally(saved=[corpus / "x"]))
    assert main([]) == 1
