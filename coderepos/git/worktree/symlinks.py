"""Tells which symbolic links of a working tree stay inside of it."""

from __future__ import annotations

from typing import Final, TypeAlias, cast

# Links by name, as their targets, and the folders on the way to them.
_Folder: TypeAlias = "dict[bytes, bytes | _Folder]"

_FOLLOWED: Final = 40  # what Linux follows before it gives up with ELOOP
_TARGET_BYTES: Final = 4_095
_STEPS: Final = 500_000

_NOWHERE: Final[_Folder] = {}


class Links:
    """All symbolic links of a working tree by their path, and where they lead.

    A link is made only if nothing that it can be resolved through, links of the same tree included, leaves the tree.
    """

    def __init__(self) -> None:
        self._top: Final[_Folder] = {}
        self._steps = 0

    def add(self, path: tuple[bytes, ...], target: bytes) -> None:
        """Take note of the link at ``path``, given by its names from the top of the tree."""
        folder = self._top
        for name in path[:-1]:
            folder = cast("_Folder", folder.setdefault(name, {}))
        folder[path[-1]] = target

    def stays_inside(self, path: tuple[bytes, ...]) -> bool:
        """Return whether the link at ``path`` is relative and its target ends inside the tree.

        A target that does not exist counts by its names. Where so many links are chained that following them all
        would take seconds, the rest counts as leading outside.
        """
        way = [self._top]
        for name in path[:-1]:
            way.append(cast("_Folder", way[-1][name]))
        found: bytes | None = cast("bytes", way[-1][path[-1]])
        rest: list[bytes] = []
        for _ in range(_FOLLOWED):
            if found is None:
                return not rest
            if not self._follow(found, rest):
                return False
            found = _next_link(way, rest)
        return found is None and not rest

    def _follow(self, target: bytes, rest: list[bytes]) -> bool:
        """Put the names of a target before the rest of the way, if it may be followed."""
        if not 0 < len(target) <= _TARGET_BYTES or target.startswith(b"/") or b"\0" in target:
            return False
        names = target.split(b"/")
        self._steps += len(names)
        rest += reversed(names)
        return self._steps <= _STEPS


def _next_link(way: list[_Folder], rest: list[bytes]) -> bytes | None:
    """Walk up to the next link and return its target; without one, ``rest`` is empty unless the way left the tree."""
    while rest:
        name = rest.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if len(way) == 1:
                rest.append(name)
                return None
            way.pop()
            continue
        below = way[-1].get(name, _NOWHERE)
        if isinstance(below, bytes):
            return below
        way.append(below)
    return None
