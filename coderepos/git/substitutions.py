"""Counts what is not written as it is in the repository."""

from __future__ import annotations

from itertools import zip_longest

from coderepos.git.text import display_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

REPORTED_PATHS: Final = 100


class Substitutions:
    """What was not written as it is, by reason, and where some of it was."""

    def __init__(self) -> None:
        self.counts: Final[dict[str, int]] = {}
        self._paths: Final[dict[str, list[str]]] = {}

    def add(self, reason: str, path: bytes, count: int = 1) -> None:
        """Count ``count`` of them, and keep the path while there are few for this reason."""
        self.add_unnamed(reason, count)
        paths = self._paths.setdefault(reason, [])
        if len(paths) < REPORTED_PATHS:
            paths.append(f"{reason}: {display_text(path)}")

    def add_unnamed(self, reason: str, count: int) -> None:
        """Count what has no path."""
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + count

    @property
    def paths(self) -> list[str]:
        """The first of each reason, then the second of each: many of one kind do not hide the others."""
        rounds = zip_longest(*self._paths.values())
        return [path for paths in rounds for path in paths if path is not None][:REPORTED_PATHS]
