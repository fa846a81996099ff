"""Tells which symbolic links of a working tree stay inside of it."""

from __future__ import annotations

from typing import Final

_FOLLOWED: Final = 40  # what Linux follows before it gives up with ELOOP
_TARGET_BYTES: Final = 4_095
_STEPS: Final = 3_000_000


class Links:
    """All symbolic links of a working tree by their path, and where they lead.

    A link is made only if nothing that it can be resolved through, links of the same tree included, leaves the tree.
    """

    def __init__(self) -> None:
        self._targets: Final[dict[tuple[bytes, ...], bytes]] = {}
        self._steps = 0

    def add(self, path: tuple[bytes, ...], target: bytes) -> None:
        """Take note of the link at ``path``, given by its names from the top of the tree."""
        self._targets[path] = target

    def stays_inside(self, path: tuple[bytes, ...]) -> bool:
        """Is the link at ``path`` relative, and does its target end inside the tree?

        A target that does not exist counts by its names. Where so many links are chained that following them all
        would take seconds, the rest counts as leading outside.
        """
        followed = 1
        here = list(path[:-1])
        target = self._targets[path]
        if not _is_relative(target):
            return False
        rest = target.split(b"/")[::-1]
        while rest:
            self._steps += 1
            if self._steps > _STEPS:
                return False
            name = rest.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if not here:
                    return False
                here.pop()
                continue
            here.append(name)
            further = self._targets.get(tuple(here))
            if further is None:
                continue
            followed += 1
            if followed > _FOLLOWED or not _is_relative(further):
                return False
            here.pop()
            rest += further.split(b"/")[::-1]
        return True


def _is_relative(target: bytes) -> bool:
    return 0 < len(target) <= _TARGET_BYTES and not target.startswith(b"/") and b"\0" not in target
