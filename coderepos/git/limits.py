"""Every bound on what a remote or a repository may cost, as one value that is passed in."""

from __future__ import annotations

from dataclasses import dataclass

MB = 10**6

SIZE_FACTOR = 3.5
"""Bytes of a whole clone per pack byte of its newest commit alone, as measured over many repositories."""

SEARCHED_PACK_BYTES = 256 * 1024
"""Longest pack that a probe has searched for a commit; it has to fit into a pipe that nobody reads yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds of one probe or clone; each is enforced where the bytes are read."""

    wire_bytes: int = 100 * MB
    """Most pack bytes accepted from the wire."""

    preamble_bytes: int = 8 * MB
    """Most bytes accepted for what comes before the pack: advertisement and refs, and again for the progress."""

    refs: int = 50_000
    """Most tags that come along; further ones are left out and counted."""

    listed_refs: int = 100_000
    """Most refs that are read of a server, whatever becomes of them."""

    objects: int = 500_000
    """Most objects in a pack."""

    object_bytes: int = 100 * MB
    """Largest single object, inflated or as the result of a delta."""

    inflated_floor_bytes: int = 256 * MB
    """Inflated bytes, delta results included, that any pack may reach."""

    inflated_ratio: int = 200
    """Inflated bytes per wire byte that a pack may reach above the floor."""

    inflated_ceiling_bytes: int = 16_000 * MB
    """Inflated bytes that no pack may pass."""

    disk_bytes: int = 100 * MB
    """Most bytes that a published version takes on disk: Git data and tree."""

    entries: int = 100_000
    """Most files, links and folders in the working tree."""

    depth: int = 64
    """Most folders nested in each other."""

    path_bytes: int = 3_000
    """Longest path in the working tree."""

    delta_memory_bytes: int = 32 * MB
    """Deltas, trees and blobs kept in memory for what needs them next; others are read again from the pack file."""

    clone_seconds: float = 300
    """Wall clock of one attempt."""

    receive_seconds: float = 60
    """Longest wait for the next bytes of a pack that has begun; before that, the wall clock alone is the bound."""

    address_space_bytes: int = 2_048 * MB
    """``RLIMIT_AS`` of a child process."""

    def inflated_bytes(self, wire_bytes: int) -> int:
        """Return how many inflated bytes a pack of ``wire_bytes`` may reach."""
        return min(self.inflated_ceiling_bytes, max(self.inflated_floor_bytes, self.inflated_ratio * wire_bytes))
