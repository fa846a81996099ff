"""How much room the file system of a sandbox root has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coderepos.sandbox.directories import translate_errors

FREE_SHARE: Final = 0.05
"""Share of a file system's bytes and inodes that stays free where nothing else is said."""

MOST_FREE_BYTES: Final = 5 * 10**9
"""Most bytes that stay free by that share; a large disk needs no more to stay usable for others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """The room of one file system, as a process without privileges has it."""

    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int | None
    """``None`` where the file system makes inodes as it needs them."""

    def floor_bytes(self, wanted_bytes: int | None) -> int:
        """Return how many bytes stay free: what is wanted, or by default a share of the file system."""
        share_bytes = min(int(self.total_bytes * FREE_SHARE), MOST_FREE_BYTES)
        return share_bytes if wanted_bytes is None else wanted_bytes

    @property
    def lacks_inodes(self) -> bool:
        """Whether so few inodes are left that a clone would take the last ones."""
        return self.free_inodes is not None and self.free_inodes < self.total_inodes * FREE_SHARE


def space_of(path: Path) -> Space:
    """Return the room of the file system that holds ``path``.

    :raises SandboxUnavailable: the file system is away or failing, or ``path`` is not there.
    """
    with translate_errors(path):
        found = os.statvfs(path)
    return Space(
        total_bytes=found.f_blocks * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
        total_inodes=found.f_files,
        free_inodes=found.f_favail if found.f_files else None,
    )
