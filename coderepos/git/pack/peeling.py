"""Peels annotated tags: follows them to the object that they finally name, through any number of tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from coderepos.exceptions import RefNotFound, RemoteProtocolError, UnsafeRepository
from coderepos.git.pack.delta_tree import DeltaTree
from coderepos.git.pack.pack_file import COMMIT, TAG, TYPE_NAMES, Pack

# As much as parse_tag_buffer() in tag.c and parse_commit_buffer() in commit.c of Git require.
_TAG: Final = re.compile(rb"object ([0-9a-fA-F]{40})\ntype (commit|tree|blob|tag)\ntag [^\n]*\n")
_COMMIT: Final = re.compile(rb"tree ([0-9a-fA-F]{40})\n")


class Peeler:
    """Peels the tags of a pack, and remembers the results.

    :param by_id: positions of all objects.
    """

    def __init__(self, pack: Pack, by_id: Mapping[bytes, int], delta_tree: DeltaTree) -> None:
        self._pack: Final = pack
        self._by_id: Final = by_id
        self._delta_tree: Final = delta_tree
        self._targets: Final[dict[int, int | None]] = {}
        self._peeled: Final[dict[int, int | None]] = {}
        self._malformed: Final[set[int]] = set()

    def peel(self, position: int) -> int | None:
        """Return the position of the object that a tag finally names, or ``position`` itself where it is not a tag.

        ``None`` if a tag in the chain is malformed, or what it names is missing or of another type.
        """
        chain: list[int] = []
        at: int | None = position
        while at is not None and self._pack.kinds[at] == TAG and at not in self._peeled:
            self._peeled[at] = None  # stays so where the tags form a circle
            chain.append(at)
            at = self._target(at)
        end = at if at is None else self._peeled.get(at, at)
        for tag in chain:
            self._peeled[tag] = end
        return end

    def is_malformed(self, tag: int) -> bool:
        """Return whether a tag that cannot be peeled, or a tag that it leads to, is malformed."""
        at: int | None = tag
        seen: set[int] = set()
        while at is not None and at not in seen and at not in self._malformed:
            seen.add(at)
            at = self._target(at)
        return at in self._malformed

    def _target(self, tag: int) -> int | None:
        """Return the position of what a tag names.

        The first call reads all tags that the pack is known to have, each once. A pack that was not scanned may have
        more, to which these lead.
        """
        if tag not in self._targets:
            tags = {tag} if self._targets else self._known_tags()
            for position, data in self._delta_tree.objects(tags):
                self._targets[position] = self._parse(position, data)
        return self._targets[tag]

    def _known_tags(self) -> set[int]:
        tags, at = set(), self._pack.kinds.find(TAG)
        while at >= 0:
            tags.add(at)
            at = self._pack.kinds.find(TAG, at + 1)
        return tags

    def _parse(self, tag: int, data: bytes) -> int | None:
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
    """Return the ids of the wanted commit, or of the commit that the wanted tag names, and of its tree.

    :param by_id: positions of all objects.
    :raises RemoteProtocolError: the pack does not hold the wanted object.
    :raises RefNotFound: the wanted object is not a commit, nor a tag of one.
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
