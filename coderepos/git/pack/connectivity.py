"""Checks connectivity: that every object which another one names is in the pack, as ``git clone`` does.

A clone of the whole history runs ``git index-pack --check-self-contained-and-connected``, which checks all trees and
commits of the pack, whether or not a ref leads to them. A shallow clone runs ``git rev-list --objects`` (connected.c of
Git), which checks what the refs lead to and ignores the parents of the shallow commits.

The ids that trees and commits name were collected by type while deltas were resolved
(:mod:`~coderepos.git.pack.object_links`), so that one set difference shows what is missing.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import compress
from typing import Final

from coderepos.exceptions import UnsafeRepository
from coderepos.git.pack.delta_tree import DeltaTree
from coderepos.git.pack.object_links import Links, split_ids
from coderepos.git.pack.pack_file import BLOB, COMMIT, EMPTY_TREE, ID_BYTES, TREE, Pack

_MAX_LINKS: Final = 20_000_000

_TYPE_MASKS: Final = {kind: bytes(number == kind for number in range(256)) for kind in (BLOB, TREE, COMMIT)}


def are_complete(links: Links, pack: Pack) -> bool:
    """Return whether everything that trees and commits name is in the pack."""
    return not links.is_broken and not any(_missing_ids(links, pack))


def check_connected(
    links: Links, pack: Pack, by_id: Mapping[bytes, int], delta_tree: DeltaTree, tips: Iterable[int], shallow: set[int]
) -> None:
    """Refuse a pack that ``git clone`` would refuse as not connected.

    :param by_id: positions of all objects.
    :param tips: positions of the objects that the refs name.
    :param shallow: positions of the shallow commits, whose parents may be missing.
    :raises UnsafeRepository: an object is missing, malformed, or of another type than it is named as.
    """
    blobs, trees, commits = _missing_ids(links, pack)
    if not (blobs or trees or commits or links.is_broken):
        return
    if not shallow:
        raise UnsafeRepository(reason="object missing")
    # Trees need no second look where only commits are missing.
    kinds = {COMMIT, TREE} if blobs or trees or links.is_broken else {COMMIT}
    named = _links_of(kinds, pack, by_id, delta_tree, shallow)
    seen, todo = bytearray(len(pack)), list(tips)
    while todo:
        position = todo.pop()
        if position < 0:
            raise UnsafeRepository(reason="object missing")
        if not seen[position]:
            seen[position] = 1
            todo.extend(named.get(position, ()))


def _missing_ids(links: Links, pack: Pack) -> tuple[set[bytes | None], ...]:
    """Return the ids of the blobs, trees and commits that are named but not in the pack."""
    ids = split_ids(pack.ids[: len(pack) * ID_BYTES])
    missing = []
    for kind, named in ((BLOB, links.blobs), (TREE, links.trees), (COMMIT, links.commits)):
        # The sets are not needed again, so they are reduced in place.
        named.difference_update(compress(ids, pack.kinds.translate(_TYPE_MASKS[kind])))
        named.difference_update((None, EMPTY_TREE))
        missing.append(named)
    return tuple(missing)


def _links_of(
    kinds: set[int], pack: Pack, by_id: Mapping[bytes, int], delta_tree: DeltaTree, shallow: set[int]
) -> dict[int, array[int]]:
    """Return the positions that each object of these types names, by its own position; -1 for a missing object."""
    named: dict[int, array[int]] = {}
    count = 0
    for position, data in delta_tree.objects({one for one in range(len(pack)) if pack.kinds[one] in kinds}):
        links = Links(len(pack))
        links.add(pack.kinds[position], data)
        if position in shallow:
            links.commits.clear()
        named[position] = array("i", {-1} if links.is_broken else set(_positions(links, pack, by_id)))
        count += len(named[position])
        if count > _MAX_LINKS:
            raise UnsafeRepository(reason="object missing")
    return named


def _positions(links: Links, pack: Pack, by_id: Mapping[bytes, int]) -> Iterator[int]:
    for kind, ids in ((BLOB, links.blobs), (TREE, links.trees), (COMMIT, links.commits)):
        for object_id in ids:
            if object_id is None:
                continue
            position = by_id.get(object_id, -1)
            if position >= 0 and pack.kinds[position] == kind:
                yield position
            elif object_id != EMPTY_TREE:
                yield -1
