"""Objects that are requested again and again, as trees are level by level, are not rebuilt each time."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from coderepos.exceptions import InflatedTooLarge
from coderepos.git.limits import Limits
from coderepos.git.pack import delta_tree as delta_tree_module
from coderepos.git.pack.delta_tree import DeltaTree
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


def request(delta_tree: DeltaTree, orders: list[list[int]]) -> int:
    """Request all of these, one call each, and return how many deltas were applied."""
    applied = 0
    real = delta_tree._apply

    def counted(position: int, base: bytes) -> bytes:
        nonlocal applied
        applied += 1
        return real(position, base)

    delta_tree._apply = counted  # type: ignore[method-assign]
    for positions in orders:
        found = dict(delta_tree.objects(set(positions)))
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
def test_a_chain_is_built_once(order: list[list[int]]) -> None:
    """In whatever order its objects are requested."""
    with scanned(PACK) as pack:
        assert request(DeltaTree(pack, Limits()), order) <= LENGTH


@pytest.mark.parametrize("cache_bytes", [0, 1_000, 10_000])
def test_the_cache_of_trees_is_bounded(cache_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is rebuilt, the same as before."""
    monkeypatch.setattr(delta_tree_module, "_TREE_CACHE_BYTES", cache_bytes)
    chance = random.Random(cache_bytes)
    with scanned(PACK) as pack:
        delta_tree = DeltaTree(pack, Limits())
        request(delta_tree, [chance.sample(range(LENGTH), 5) for _ in range(50)])
        assert delta_tree._cached_bytes <= cache_bytes


def test_rebuilding_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted against what the pack may inflate to."""
    monkeypatch.setattr(delta_tree_module, "_TREE_CACHE_BYTES", 0)
    limits = Limits(inflated_floor_bytes=10**7, inflated_ratio=1)
    with scanned(PACK, limits) as pack, pytest.raises(InflatedTooLarge):
        request(DeltaTree(pack, limits), [[LENGTH - 1]] * 50)
