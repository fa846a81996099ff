"""Follows annotated tags to what they name, however many lie on top of each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from coderepos.exceptions import RefNotFound, RemoteProtocolError, UnsafeRepository
from coderepos.git.pack.delta_tree import DeltaTree
from coderepos.git.pack.pack_file import COMMIT, TAG, TYPE_NAMES, Pack

# What parse_tag_buffer() in tag.c and parse_commit_buffer() in commit.c of Git ask for.
_TAG: Final = re.compile(rb"object ([0-9a-fA-F]{40})\ntype (commit|tree|blob|tag)\ntag [^\n]*\n")
_COMMIT: Final = re.compile(rb"tree ([0-9a-fA-F]{40})\n")


class Peeler:
    """Knows what the tag objects of a pack finally name.

    :param by_id: positions of all objects.
    """

    def __init__(self, pack: Pack, by_id: Mapping[bytes, int], delta_tree: DeltaTree) -> None:
        self._pack: Final = pack
        self._by_id: Final = by_id
        self._delta_tree: Final = delta_tree
        self._targets: dict[int, int | None] | None = None
        self._peeled: Final[dict[int, int | None]] = {}
        self._malformed: Final[set[int]] = set()

    def peel(self, position: int) -> int | None:
        """Return what is at the end of a tag, or the object itself where it is none.

        ``None`` where a tag on the way is malformed, or what it names is missing or of another type.
        """
        way: list[int] = []
        at: int | None = position
        while at is not None and self._pack.kinds[at] == TAG and at not in self._peeled:
            self._peeled[at] = None  # where only this leads back to it
            way.append(at)
            at = self._target(at)
        end = at if at is None else self._peeled.get(at, at)
        for tag in way:
            self._peeled[tag] = end
        return end

    def is_malformed(self, tag: int) -> bool:
        """Whether a tag that leads nowhere does so since it, or one that it leads to, is malformed."""
        at: int | None = tag
        seen: set[int] = set()
        while at is not None and at not in seen and at not in self._malformed:
            seen.add(at)
            at = self._target(at)
        return at in self._malformed

    def _target(self, tag: int) -> int | None:
        """Return what a tag names; all of them are read at the first call, each once."""
        if self._targets is None:
            tags, at = set(), self._pack.kinds.find(TAG)
            while at >= 0:
                tags.add(at)
                at = self._pack.kinds.find(TAG, at + 1)
            self._targets = {position: self._named(position, data) for position, data in self._delta_tree.objects(tags)}
        return self._targets[tag]

    def _named(self, tag: int, data: bytes) -> int | None:
        found = _TAG.match(data)
        if not found:
            self._malformed.add(tag)
            return None
        position = self._by_id.get(bytes.fromhex(found[1].decode()))
        if position is not None and TYPE_NAMES[self._pack.kinds[position]] != found[2]:
            self._malformed.add(tag)
            return None
        return position


def commit_and_tree(
    wanted_id: bytes, pack: Pack, by_id: Mapping[bytes, int], delta_tree: DeltaTree, peeler: Peeler
) -> tuple[bytes, bytes]:
    """Return the ids of the commit that the wanted object is or names, and of its tree.

    :param by_id: positions of all objects.
    :raises RemoteProtocolError: the pack does not hold the wanted object.
    :raises RefNotFound: it names no commit.
    :raises UnsafeRepository: a tag or the commit is malformed.
    """
    wanted = by_id.get(wanted_id)
    if wanted is None:
        raise RemoteProtocolError(reason="wanted object missing")
    position = peeler.peel(wanted)
    if position is None and peeler.is_malformed(wanted):
        raise UnsafeRepository(reason="malformed tag")
    if position is None or pack.kinds[position] != COMMIT:
        raise RefNotFound(reason="no commit")
    ((_, data),) = delta_tree.objects({position})
    found = _COMMIT.match(data)
    if not found:
        raise UnsafeRepository(reason="malformed commit")
    return pack.object_id(position), bytes.fromhex(found[1].decode())
