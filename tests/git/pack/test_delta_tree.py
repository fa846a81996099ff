"""Objects that are asked for again and again, as trees are level by level, are not made again each time."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from coderepos.exceptions import InflatedTooLarge
from coderepos.git.limits import Limits
from coderepos.git.pack import delta_tree as families_module
from coderepos.git.pack.delta_tree import Families
from tests.support import packs
from tests.support.build_child import scanned
from tests.support.packs import Object, delta, insert, ref_delta

LENGTH = 400
CHAIN = [Object("tree", b"160000 %04d\0%s" % (number, b"1" * 20)) for number in range(LENGTH)]
PACK = packs.pack(
    [CHAIN[0]],
    raw=[
        ref_delta(before.id, delta(len(before.content), len(after.content), insert(after.content)))
        for before, after in pairwise(CHAIN)
    ],
)


def asked(families: Families, orders: list[list[int]]) -> int:
    """Ask for all of these, one call each, and return how many deltas were applied."""
    applied = 0
    real = families._applied

    def counted(position: int, base: bytes) -> bytes:
        nonlocal applied
        applied += 1
        return real(position, base)

    families._applied = counted  # type: ignore[method-assign]
    for positions in orders:
        found = dict(families.objects(set(positions)))
        assert found == {position: CHAIN[position].content for position in positions}
    return applied


@pytest.mark.parametrize(
    "order",
    [
        [[number] for number in range(0, LENGTH, 8)],
        [[number] for number in reversed(range(0, LENGTH, 8))],
        [[number, LENGTH - 1 - number] for number in range(0, LENGTH // 2, 4)],
    ],
    ids=["upwards", "downwards", "from both ends"],
)
def test_a_chain_is_made_once(order: list[list[int]]) -> None:
    """However its objects are asked for."""
    with scanned(PACK) as pack:
        assert asked(Families(pack, Limits()), order) <= LENGTH


@pytest.mark.parametrize("kept_bytes", [0, 1_000, 10_000])
def test_what_is_kept_is_bounded(kept_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is made again, the same as before."""
    monkeypatch.setattr(families_module, "_RECENT_BYTES", kept_bytes)
    chance = random.Random(kept_bytes)
    with scanned(PACK) as pack:
        families = Families(pack, Limits())
        asked(families, [chance.sample(range(LENGTH), 5) for _ in range(50)])
        assert families._recent_bytes <= kept_bytes


def test_making_things_again_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted against what the pack may inflate to."""
    monkeypatch.setattr(families_module, "_RECENT_BYTES", 0)
    limits = Limits(inflated_floor_bytes=10**7, inflated_ratio=1)
    with scanned(PACK, limits) as pack, pytest.raises(InflatedTooLarge):
        asked(Families(pack, limits), [[LENGTH - 1]] * 50)
