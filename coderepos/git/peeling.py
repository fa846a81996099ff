"""Follows annotated tags to what they name."""

from __future__ import annotations

import re

from coderepos.exceptions import RefNotFound, RemoteProtocolError, UnsafeRepository
from coderepos.git.pack import COMMIT, TAG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Final

    from coderepos.git.families import Families
    from coderepos.git.pack import Pack

_NESTED_TAGS: Final = 20
_TAG: Final = re.compile(rb"object ([0-9a-f]{40})\n")
_COMMIT: Final = re.compile(rb"tree ([0-9a-f]{40})\n")


def peel(positions: Iterable[int], pack: Pack, by_id: Mapping[bytes, int], families: Families) -> dict[int, int | None]:
    """Return what each tag object finally names, by its position; ``None`` where that is not in the pack.

    :param by_id: positions of all objects.
    :raises UnsafeRepository: a tag object is malformed, or too many tags name each other.
    """
    tags = {position for position in positions if pack.kinds[position] == TAG}
    named: dict[int, int | None] = {}
    unread = set(tags)
    for _ in range(_NESTED_TAGS):
        if not unread:
            break
        for position, data in families.objects(unread):
            found = _TAG.match(data)
            if not found:
                raise UnsafeRepository(reason="malformed tag")
            named[position] = by_id.get(bytes.fromhex(found[1].decode()))
        unread = {one for one in named.values() if one is not None and pack.kinds[one] == TAG} - named.keys()
    else:
        if unread:
            raise UnsafeRepository(reason="too many nested tags")
    peeled: dict[int, int | None] = {}
    for tag in tags:
        at: int | None = tag
        for _ in range(len(named) + 1):
            if at not in named:
                break
            at = named[at]
        peeled[tag] = at
    return peeled


def commit_and_tree(
    wanted_id: bytes, pack: Pack, by_id: Mapping[bytes, int], families: Families
) -> tuple[bytes, bytes]:
    """Return the ids of the commit that the wanted object is or names, and of its tree.

    :param by_id: positions of all objects.
    :raises RemoteProtocolError: the pack does not hold the wanted object.
    :raises RefNotFound: it names no commit.
    :raises UnsafeRepository: a tag or the commit is malformed.
    """
    position: int | None = by_id.get(wanted_id)
    if position is None:
        raise RemoteProtocolError(reason="wanted object missing")
    position = peel([position], pack, by_id, families).get(position, position)
    if position is None or pack.kinds[position] != COMMIT:
        raise RefNotFound
    ((_, data),) = families.objects({position})
    found = _COMMIT.match(data)
    if not found:
        raise UnsafeRepository(reason="malformed commit")
    return pack.object_id(position), bytes.fromhex(found[1].decode())
