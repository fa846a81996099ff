"""Collects the ids that trees and commits name: the links between the objects of a pack.

They are extracted where an object's content is in memory anyway, which is mostly on the second core.
"""

from __future__ import annotations

import re
import struct
from binascii import unhexlify
from mmap import mmap
from typing import Final

from coderepos.git.pack.pack_file import COMMIT, ID_BYTES, TREE

# One entry of a tree: a file or link, a directory, a submodule, or else all that is left. Modes are read as by Git's
# canon_mode(). What is left is a group of its own, so that the search never goes on behind a malformed entry.
_LINE: Final = re.compile(
    rb"(?:100644|100755|120000|(?=[0-7]{6})[0-7]++(?<=[1357][02][0-7]{4})) [^\0]++\0(.{20})"
    rb"|(?:4[0-7]{4}|(?=[0-7]{6})[0-7]++(?<=[0246]4[0-7]{4})) [^\0]++\0(.{20})"
    rb"|[0-7]++ [^\0]++\0.{20}"
    rb"|(.++)",
    re.DOTALL,
)
_COMMIT: Final = re.compile(rb"tree ([0-9a-fA-F]{40})\n((?:parent [0-9a-fA-F]{40}\n)*+)(?!parent )")
_PARENT_BYTES: Final = 48
_WINDOW_BYTES: Final = 1 << 20
_MORE_IDS: Final = 100_000
"""Ids allowed beyond one per object: the parents that a shallow history names and lacks."""

_COUNTS: Final = struct.Struct("?3Q")


class Links:
    """The ids that trees and commits name, by the type that each object must have.

    :param objects: number of objects in the pack; where many more are named, some are missing.
    """

    def __init__(self, objects: int) -> None:
        self._max_ids: Final = objects + _MORE_IDS
        self.blobs: Final[set[bytes | None]] = set()  # with None from the entries of other types
        self.trees: Final[set[bytes | None]] = set()
        self.commits: Final[set[bytes | None]] = set()
        self.is_broken = False
        """Whether a tree or commit is malformed, or too many ids are named."""

    def add(self, kind: int, data: bytes) -> None:
        """Add the ids that a tree or a commit names."""
        if self.is_broken:
            return
        if kind == TREE:
            self._add_tree(data)
        elif kind == COMMIT:
            self._add_commit(data)

    def _add_tree(self, data: bytes) -> None:
        at, end, width = 0, len(data), _WINDOW_BYTES
        while at < end:
            window = data if end <= width else data[at : at + width]
            # For each entry: the text before it, which is empty, then its blob, its tree, or what is left.
            parts = _LINE.split(window)
            self.blobs.update(parts[1::4])
            self.trees.update(parts[2::4])
            rest = len(parts[-2] or b"")
            at += len(window) - rest
            if rest and at + rest >= end:
                self.is_broken = True
                return
            self._check_room()
            # An entry that the window cuts off starts the next window, and may be longer than one.
            width = 2 * width if rest == len(window) else _WINDOW_BYTES

    def _add_commit(self, data: bytes) -> None:
        found = _COMMIT.match(data)
        if found is None:
            self.is_broken = True
            return
        self.trees.add(unhexlify(found[1]))
        start, end = found.span(2)
        for at in range(start, end, _PARENT_BYTES):
            self.commits.add(unhexlify(data[at + 7 : at + 47]))
        self._check_room()

    def _check_room(self) -> None:
        if len(self.blobs) + len(self.trees) + len(self.commits) > self._max_ids:
            self.is_broken = True
            for ids in (self.blobs, self.trees, self.commits):
                ids.clear()


class SharedLinks:
    """Shared memory in which a forked process passes on the links that it found.

    :param objects: number of objects in the pack.
    """

    def __init__(self, objects: int) -> None:
        # Pages that are never written take no memory.
        self._memory: Final = mmap(-1, _COUNTS.size + ID_BYTES * (objects + _MORE_IDS))

    def store(self, found: Links) -> None:
        """Store the links; called in the forked process."""
        packed = [b"".join([one for one in ids if one]) for ids in (found.blobs, found.trees, found.commits)]
        self._memory.write(_COUNTS.pack(found.is_broken, *map(len, packed)))
        for ids in packed:
            self._memory.write(ids)

    def add_to(self, links: Links) -> None:
        """Add what the forked process stored."""
        is_broken, *sizes = _COUNTS.unpack(self._memory.read(_COUNTS.size))
        for ids, size in zip((links.blobs, links.trees, links.commits), sizes, strict=True):
            ids.update(split_ids(self._memory.read(size)))
        links.is_broken = links.is_broken or is_broken
        self._memory.close()


def split_ids(packed: bytes) -> list[bytes]:
    """Return the ids in a packed column."""
    return list(struct.Struct(f"{ID_BYTES}s" * (len(packed) // ID_BYTES)).unpack(packed))
