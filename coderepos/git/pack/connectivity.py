"""Is every object that another one names in the pack? What ``git clone`` asks before it believes a remote.

A clone of the whole history calls ``git index-pack --check-self-contained-and-connected``: all trees and commits of the
pack are looked at, whether or not a ref leads to them. A shallow one calls ``git rev-list --objects`` (connected.c of
Git): what the refs lead to counts, and the ends of the history name no parents.

What trees and commits name was collected by its type while they were made (:mod:`~coderepos.git.pack.object_links`).
One difference at the end tells whether it is all there.
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

_MOST_LINKS: Final = 20_000_000

_ONLY: Final = {kind: bytes(number == kind for number in range(256)) for kind in (BLOB, TREE, COMMIT)}


def are_complete(links: Links, pack: Pack) -> bool:
    """Whether all that trees and commits name is in the pack."""
    return not links.is_broken and not any(_missing(links, pack))


def check_connected(
    links: Links, pack: Pack, by_id: Mapping[bytes, int], delta_tree: DeltaTree, tips: Iterable[int], shallow: set[int]
) -> None:
    """Refuse a pack that ``git clone`` refuses for what is not in it.

    :param by_id: positions of all objects.
    :param tips: positions of what the refs name.
    :param shallow: positions of the commits whose parents do not count.
    :raises UnsafeRepository: something is missing, of another type than it is named as, or malformed.
    """
    blobs, trees, commits = _missing(links, pack)
    if not (blobs or trees or commits or links.is_broken):
        return
    if not shallow:
        raise UnsafeRepository(reason="object missing")
    # Without a look at the trees, where none of them is to blame.
    kinds = {COMMIT, TREE} if blobs or trees or links.is_broken else {COMMIT}
    named = _named(kinds, pack, by_id, delta_tree, shallow)
    seen, todo = bytearray(len(pack)), list(tips)
    while todo:
        position = todo.pop()
        if position < 0:
            raise UnsafeRepository(reason="object missing")
        if not seen[position]:
            seen[position] = 1
            todo.extend(named.get(position, ()))


def _missing(links: Links, pack: Pack) -> tuple[set[bytes | None], ...]:
    """Return which blobs, trees and commits are named and not there."""
    ids = split_ids(pack.ids[: len(pack) * ID_BYTES])
    missing = []
    for kind, named in ((BLOB, links.blobs), (TREE, links.trees), (COMMIT, links.commits)):
        # Whatever is there goes out of the set at once: it is not asked for again.
        named.difference_update(compress(ids, pack.kinds.translate(_ONLY[kind])))
        named.difference_update((None, EMPTY_TREE))
        missing.append(named)
    return tuple(missing)


def _named(
    kinds: set[int], pack: Pack, by_id: Mapping[bytes, int], delta_tree: DeltaTree, shallow: set[int]
) -> dict[int, array[int]]:
    """Return what each object of these types names, by position; -1 for what is not there."""
    named: dict[int, array[int]] = {}
    count = 0
    for position, data in delta_tree.objects({one for one in range(len(pack)) if pack.kinds[one] in kinds}):
        links = Links(len(pack))
        links.add(pack.kinds[position], data)
        if position in shallow:
            links.commits.clear()
        named[position] = array("i", {-1} if links.is_broken else set(_positions(links, pack, by_id)))
        count += len(named[position])
        if count > _MOST_LINKS:
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
