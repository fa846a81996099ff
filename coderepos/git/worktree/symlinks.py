"""Finds out which symbolic links of a working tree resolve inside of it."""

from __future__ import annotations

from typing import Final, TypeAlias, cast

# By name: targets of links, and the directories that contain links.
_Directory: TypeAlias = "dict[bytes, bytes | _Directory]"

_MAX_FOLLOWED: Final = 40  # more, and Linux fails with ELOOP
_TARGET_BYTES: Final = 4_095
_MAX_STEPS: Final = 500_000
"""Most names that are followed in all; a few seconds."""

_NOWHERE: Final[_Directory] = {}


class Symlinks:
    """The symbolic links of a working tree.

    They are resolved by name, through each other, without touching the file system.
    """

    def __init__(self) -> None:
        self._top: Final[_Directory] = {}
        self._steps = 0

    def add(self, path: tuple[bytes, ...], target: bytes) -> None:
        """Add the link at ``path``, given as its names from the top of the tree."""
        directory = self._top
        for name in path[:-1]:
            directory = cast("_Directory", directory.setdefault(name, {}))
        directory[path[-1]] = target

    def resolves_inside(self, path: tuple[bytes, ...]) -> bool:
        """Return whether the link at ``path`` is relative and resolves inside the tree, at every step.

        A target that does not exist is judged by its names. Once following chained links has taken too many steps, all
        further links count as leading outside.
        """
        directories = [self._top]
        for name in path[:-1]:
            directories.append(cast("_Directory", directories[-1][name]))
        found: bytes | None = cast("bytes", directories[-1][path[-1]])
        rest: list[bytes] = []
        for _ in range(_MAX_FOLLOWED):
            if found is None:
                return not rest
            if not self._follow(found, rest):
                return False
            found = _next_link(directories, rest)
        return found is None and not rest

    def _follow(self, target: bytes, rest: list[bytes]) -> bool:
        """Put the names of a target in front of ``rest``, and return whether it may be followed."""
        if not 0 < len(target) <= _TARGET_BYTES or target.startswith(b"/") or b"\0" in target:
            return False
        names = target.split(b"/")
        self._steps += len(names)
        rest += reversed(names)
        return self._steps <= _MAX_STEPS


def _next_link(directories: list[_Directory], rest: list[bytes]) -> bytes | None:
    """Walk to the next link and return its target; without one, ``rest`` is empty unless the path left the tree."""
    while rest:
        name = rest.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if len(directories) == 1:
                rest.append(name)
                return None
            directories.pop()
            continue
        below = directories[-1].get(name, _NOWHERE)
        if isinstance(below, bytes):
            return below
        directories.append(below)
    return None
