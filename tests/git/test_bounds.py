"""What a repository may cost: whatever it is made of, the bounds of docs/hostile-cases.md hold."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.build_child import child, outcome_of
from tests.support.costly_repositories import SHAPES, Made

CPU_SECONDS = 5.0
PEAK_MB = 300


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=[shape.__name__ for shape in SHAPES])
def test_a_repository_costs_little(shape: Callable[[random.Random], Made], tmp_path: Path) -> None:
    """Each shape at a random size, whole or shallow, ends in a clone or in an error of ours, soon and small."""
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    content, wanted = shape(chance)
    ends = (wanted.id,) if wanted.kind == "commit" and chance.random() < 0.5 else ()
    built = child(tmp_path, content, outcome_of(content, wanted, shallow=ends))

    said = f"Seed {seed}: {built.seconds:.1f} s, {built.peak_mb:.0f} MB, {built.failure}"
    print(said)
    assert built.last["event"] in ("report", "error"), said
    assert built.failure[0] not in ("internal_error", "out_of_memory"), said
    assert built.seconds <= CPU_SECONDS, said
    assert built.peak_mb <= PEAK_MB, said
