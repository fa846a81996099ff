"""Whether a small pack holds a commit is known for certain, or not at all."""

from __future__ import annotations

import random
import time

import pytest

from coderepos.git.commit_search import MOST_BYTES, CommitSearch
from tests.git import packs
from tests.git.packs import FILE, Line, blob

ROOT = packs.tree(Line(FILE, b"file", blob().id))
HEAD = packs.commit(ROOT)


def found_none(content: bytes, *, step: int = 1_000_000) -> bool:
    """Give a search these bytes in parts and return what it says."""
    search = CommitSearch()
    for at in range(0, len(content), step):
        search.take([memoryview(content)[at : at + step]])
    return search.found_none()


DELTA = packs.delta(8, 8, packs.copy(0, 8))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (packs.pack([blob()]), True),
        (packs.pack([packs.tag(blob()), blob()]), True),
        (packs.pack([packs.tag(ROOT), ROOT, blob()]), True),
        (packs.pack([blob(bytes(200_000))]), True),
        (packs.pack([blob()], raw=[packs.ofs_delta(len(packs.entry(blob())), DELTA)]), True),
        (packs.pack([blob()], raw=[packs.ref_delta(blob().id, DELTA)]), True),
        (packs.pack([]), True),
        (packs.pack([HEAD]), False),
        (packs.pack([packs.tag(HEAD), HEAD, ROOT, blob()]), False),
        (packs.pack([blob(), ROOT, HEAD]), False),
        # Not known.
        (b"", False),
        (b"no pack", False),
        (packs.pack([blob()])[:-1], False),
        (packs.pack([blob()]) + b"x", False),
        (packs.pack([blob(random.Random(1).randbytes(MOST_BYTES))]), False),
        (packs.pack([blob(bytes(20 * 10**6))]), False),
        (packs.sealed(packs.header(1) + b"\xff" * 40), False),
        (packs.sealed(packs.header(2**32 - 1) + packs.entry(blob())), False),
        (packs.sealed(packs.header(1) + packs.entry(blob())[:-6]), False),
    ],
    ids=lambda value: str(len(value)) if isinstance(value, bytes) else str(value),
)
@pytest.mark.parametrize("step", [7, 1_000_000])
def test_certain_or_unknown(content: bytes, expected: bool, step: int) -> None:
    """Only a whole pack without a commit is one; it does not matter in which parts it comes."""
    assert found_none(content, step=step) is expected


def test_no_changed_byte_raises() -> None:
    """Whatever a server sends, the search says yes or no."""
    content, chance = packs.pack([packs.tag(ROOT), ROOT, blob()]), random.Random(3)
    for _ in range(3_000):
        changed = bytearray(content)
        changed[chance.randrange(len(changed))] = chance.randrange(256)
        found_none(bytes(changed))


def test_many_small_entries_cost_little() -> None:
    """Time is that of the bytes, whatever they are."""
    content = packs.pack([blob()] * 12_000)
    assert len(content) < MOST_BYTES
    started = time.process_time()
    assert found_none(content)
    assert found_none(packs.pack([blob(bytes(7 * 10**6))]))
    assert time.process_time() - started < 1
