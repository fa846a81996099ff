"""Parses tree objects, and merges entries of the same name as Git's index does.

Like Git, it accepts what Git never writes: unusual modes, entries in any order, and repeated names.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from coderepos.exceptions import TooManyEntries, UnsafeRepository

FILE: Final = 0o100644
PROGRAM: Final = 0o100755
LINK: Final = 0o120000
DIRECTORY: Final = 0o40000
GITLINK: Final = 0o160000

# An entry, or all the rest where it is none. Not dulwich.objects.parse_tree(): that takes "+" before a mode, refuses
# long ones, and gives ids as hex, so that it would need this expression beside it.
_LINE: Final = re.compile(rb"([0-7]++) ([^\0]*+)\0(.{20})|.++", re.DOTALL)

_MODES: Final = frozenset((FILE, 0o100664, PROGRAM, LINK, DIRECTORY, GITLINK))
"""All modes that Git has ever written; until 2005 files had the write bit of the group."""

_MODE_DIGITS: Final = 6  # more of them change nothing: Git looks at 16 bits


class Entry:
    """One line of a tree.

    :param mode: one of Git's five.
    :param position: position of the object in the pack, number of a tree by :class:`TreeReader`, or -1 for a gitlink.
    :param is_odd: whether the mode in the tree is one that Git never wrote.
    :param instead_of: earlier entry of the same name, which is written instead if this is an empty directory.
    """

    __slots__ = ("instead_of", "is_directory", "is_odd", "mode", "name", "position")

    def __init__(
        self, mode: int, name: bytes, position: int, is_odd: bool = False, instead_of: Entry | None = None
    ) -> None:
        self.mode: Final = mode
        self.name: Final = name
        self.position: Final = position
        self.is_odd: Final = is_odd
        self.instead_of: Final = instead_of
        self.is_directory: Final = mode == DIRECTORY

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.mode == LINK

    @property
    def is_gitlink(self) -> bool:
        """Whether it is a submodule: a commit of another repository."""
        return self.mode == GITLINK

    @property
    def is_executable(self) -> bool:
        """Whether it is an executable file."""
        return self.mode == PROGRAM


def parse_tree(data: bytes, *, most: int) -> Iterator[tuple[int, bool, bytes, bytes]]:
    """Yield mode, whether it is one that Git never wrote, name and object id of each entry of a tree object.

    :param most: entries after which reading stops with an error.
    :raises UnsafeRepository: the tree is malformed: ``decode_tree_entry()`` in tree-walk.c of Git.
    :raises TooManyEntries: it has more than ``most`` entries.
    """
    modes: dict[bytes, tuple[int, bool]] = {}
    for count, line in enumerate(_LINE.finditer(data), 1):
        digits, name, object_id = line.groups()
        if digits is None:
            raise UnsafeRepository(reason="malformed tree")
        if count > most:
            raise TooManyEntries(figure=count, limit=most)
        found = modes.get(digits)
        if found is None:
            found = modes[digits] = _mode(digits)
        yield *found, name, object_id


def without_duplicates(
    entries: list[Entry], merge: Callable[[Iterable[int]], int]
) -> tuple[list[Entry], list[tuple[bytes, int]]]:
    """Return what Git's index makes of these entries, and how many more there were of each name.

    Git adds one after the other: a file takes the place of whatever had its name, what is in a directory takes that of
    a file of this name, and directories of one name become one that holds what is in all of them.

    :param merge: returns the number of the tree that has the entries of several.
    """
    by_name: dict[bytes, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    kept, more = [], []
    for name, same in by_name.items():
        if len(same) > 1:
            more.append((name, len(same) - 1))
        last = max((number for number, entry in enumerate(same) if not entry.is_directory), default=-1)
        directories = same[last + 1 :]
        if not directories:
            kept.append(same[last])
        elif len(same) == 1:
            kept.append(directories[0])
        else:
            merged = merge(entry.position for entry in directories)
            kept.append(Entry(DIRECTORY, name, merged, instead_of=same[last] if last >= 0 else None))
    return kept, more


def _mode(digits: bytes) -> tuple[int, bool]:
    """Return the mode that Git takes these digits for, ``canon_mode()`` in cache.h, and if it never wrote it."""
    mode = int(digits[-_MODE_DIGITS:], 8)
    is_odd = mode not in _MODES or len(digits.lstrip(b"0")) > _MODE_DIGITS
    if stat.S_ISREG(mode):
        return (PROGRAM if mode & stat.S_IXUSR else FILE), is_odd
    if stat.S_ISLNK(mode):
        return LINK, is_odd
    if stat.S_ISDIR(mode):
        return DIRECTORY, is_odd
    return GITLINK, is_odd
