"""Counts what is not written as it is in the repository, by reason."""

from __future__ import annotations

from itertools import zip_longest
from typing import Final

from coderepos.git.text import display_text

REPORTED_PATHS: Final = 100

MEANINGS: Final = {
    "symlink": "links that leave the tree, or form a circle, are small files with the link's target",
    "gitlink": "submodules are empty directories",
    "lfs_pointer": "files in Git LFS are pointers",
    "name": "names with control bytes or over 255 bytes are skipped, with everything below them",
    "duplicate": "names that the tree has more than once are there once, as git checks them out",
    "mode": "file modes that Git never writes are interpreted as git does",
    "empty_tree": "directories without any file are not created, as by git",
    "bare_repository": "directories that Git takes for repositories: at the top HEAD is skipped, others are complete",
    "tag": "tags that lead nowhere, that are too many, or whose names Git refuses are skipped",
}
"""What each reason means, for users."""


class Substitutions:
    """The number of substitutions by reason, and the paths of some."""

    def __init__(self) -> None:
        self.counts: Final[dict[str, int]] = {}
        self._paths: Final[dict[str, list[str]]] = {}

    def add(self, reason: str, path: bytes, count: int = 1) -> None:
        """Count substitutions, and keep the path if there are few for this reason so far."""
        self.add_unnamed(reason, count)
        paths = self._paths.setdefault(reason, [])
        if len(paths) < REPORTED_PATHS:
            paths.append(f"{reason}: {display_text(path)}")

    def add_unnamed(self, reason: str, count: int) -> None:
        """Count substitutions without a path."""
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + count

    @property
    def paths(self) -> list[str]:
        """The first path of each reason, then the second of each, so that many of one reason do not hide the others."""
        rounds = zip_longest(*self._paths.values())
        return [path for paths in rounds for path in paths if path is not None][:REPORTED_PATHS]
