"""Packs and deltas are read exactly as Git reads them, and it would be noticed if they were not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import differential
from tests.fuzz.differential import Reference, compare, compared, compared_deltas, main
from tests.fuzz.structured import structured
from tests.support import packs
from tests.support.build_child import index_of
from tests.support.packs import Object, blob, copy, delta, entry, insert, ofs_delta, ref_delta

SECONDS = 20

A, B = blob(b"a\n"), blob(b"b\n")
A_ON_B = ref_delta(B.id, delta(2, 2, insert(A.content)))
B_ON_A = ref_delta(A.id, delta(2, 2, insert(B.content)))
A_ON_A = ref_delta(A.id, delta(2, 2, copy(0, 2)))
BIG = Object("blob", bytes(70_000))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The real git."""
    return Reference(tmp_path_factory.mktemp("reference"))


@pytest.mark.slow
def test_packs_and_deltas_are_read_as_git_reads_them(tmp_path: Path) -> None:
    """For some seconds: whatever Git refuses is refused, and where it does not, the index has the same bytes."""
    seed = random.SystemRandom().randrange(2**32)
    made = compare(seconds=SECONDS, seed=seed, found=tmp_path)

    assert not made.wrong, f"Seed {seed}: {made.wrong}, {[one.read_bytes().hex() for one in tmp_path.iterdir()]}"
    assert made.deltas > 100
    assert min(made.packs["read"], made.packs["refused"]) > 20


@pytest.mark.parametrize(
    ("entries", "is_read"),
    [
        ([entry(A), A_ON_B, B_ON_A], False),
        ([A_ON_B, B_ON_A, entry(A)], False),
        ([A_ON_B, B_ON_A], False),
        ([entry(A), A_ON_A], False),
        ([A_ON_A], False),
        ([entry(A), entry(A), B_ON_A], False),
        ([entry(A), B_ON_A, B_ON_A], True),
        ([entry(A), entry(A)], True),
        ([entry(A), B_ON_A, entry(B)], True),
        ([entry(A), ofs_delta(len(entry(A)), delta(2, 2, copy(0, 2)))], True),
        ([entry(A), ofs_delta(len(entry(A)), delta(2, 2, copy(0, 2))), B_ON_A], False),
        ([B_ON_A, entry(A)], True),
        ([B_ON_A], False),
        ([entry(blob(b"")), ofs_delta(len(entry(blob(b""))), delta(0, 0))], False),
        ([entry(BIG), ofs_delta(len(entry(BIG)), delta(70_000, 0))], True),
    ],
    ids=[
        "circle beside the whole object",
        "circle before the whole object",
        "circle",
        "delta on its own whole copy",
        "delta on itself",
        "base twice",
        "delta twice",
        "whole object twice",
        "delta and whole object",
        "copy of the base by offset",
        "copy of the base by offset, and a delta by id",
        "base behind",
        "base missing",
        "delta of two bytes",
        "delta of four bytes",
    ],
)
def test_a_base_given_by_id_is_there_once(entries: list[bytes], is_read: bool, reference: Reference) -> None:
    """Whoever reads a delta on an object that is there twice may go round in a circle for ever."""
    content = packs.pack(raw=entries)

    assert compared(content, reference) == ("read" if is_read else "refused", "")


def test_the_same_seed_makes_the_same_packs() -> None:
    """A run can be repeated; the packs are of many kinds."""
    made = [[structured(random.Random(seed)) for seed in range(50)] for _ in range(2)]

    assert made[0] == made[1]
    assert len(set(made[0])) > 40


def test_a_difference_is_noticed(reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading what Git refuses, another index, refusing what Git reads, and a delta carried out otherwise."""
    good, bad = packs.pack([A, B]), packs.pack(raw=[A_ON_B, B_ON_A])
    index = index_of(good)
    monkeypatch.setattr(differential, "index_of", lambda content: index)
    assert compared(bad, reference)[1] == "git refuses it"
    assert compared(packs.pack([B, A]), reference)[1] == "the index is another one"
    assert "differs-" in compare(seconds=2, seed=1, found=tmp_path).wrong[0]
    assert [path.suffix for path in tmp_path.iterdir()] == [".pack"]

    monkeypatch.undo()
    monkeypatch.setattr(differential, "_applied", lambda base, delta: None)
    assert "git makes something of" in compared_deltas(50, random.Random(1), reference)[1][0]
    monkeypatch.setattr(differential, "_applied", lambda base, delta: delta)
    assert "git refuses" in compared_deltas(50, random.Random(1), reference)[1][0]


def test_readers_that_never_end_are_noticed(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git reads a circle of deltas for ever, so that such a pack may not be published."""
    monkeypatch.setattr(differential, "SECONDS", 1)
    content = packs.pack(raw=[entry(A), A_ON_B, B_ON_A])
    index = differential._index([entry(A), A_ON_B, B_ON_A], [bytes.fromhex(one.id) for one in (A, A, B)], content)

    assert "never ends" in reference.trouble_of_readers(content, index)


def test_the_command_tells_its_seed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A run can be repeated, and its exit status says how it went."""
    assert main(["--seconds", "0.5", "--seed", "7"]) == 0
    assert "Seed 7\n" in capsys.readouterr().out

    monkeypatch.setattr(differential, "compare", lambda **_: differential.Comparison(wrong=["x.pack: git refuses it"]))
    assert main([]) == 1
    assert "git refuses it" in capsys.readouterr().out
