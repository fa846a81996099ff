"""Counts what is not written as it is in the repository."""

from __future__ import annotations

from itertools import zip_longest
from typing import Final

from coderepos.git.text import display_text

REPORTED_PATHS: Final = 100

MEANINGS: Final = {
    "symlink": "links that leave the tree, or lead round in a circle, are small files with the link's text",
    "gitlink": "submodules are empty folders",
    "lfs_pointer": "files in Git LFS are pointers",
    "name": "names with control bytes or over 255 bytes are left out, with all that is below them",
    "duplicate": "names that the tree has more than once are there once, as git checks them out",
    "mode": "file modes that Git never wrote are taken as git takes them",
    "empty_tree": "folders without any file are not made, as by git",
    "bare_repository": "folders that Git takes for repositories: at the top HEAD is left out, deeper ones are whole",
    "tag": "tags that lead nowhere, that are too many, or whose names Git refuses are left out",
}
"""What each reason says of the clone, for people."""


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
