"""The values of all limits on what a remote or a repository may cost; what works for the remote enforces them."""

from __future__ import annotations

from dataclasses import dataclass

MB = 10**6

SIZE_FACTOR = 3.5
"""Bytes of a whole clone per pack byte of its newest commit, as measured over many repositories."""

SEARCHED_PACK_BYTES = 256 * 1024
"""Longest pack that a probe searches for a commit; it has to fit into a pipe that nobody reads yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of one probe or clone; each is enforced where the bytes are read."""

    wire_bytes: int = 100 * MB
    """Most pack bytes accepted from the wire."""

    preamble_bytes: int = 8 * MB
    """Most bytes accepted before the pack, for advertisement and refs, and again besides the pack, for progress."""

    refs: int = 50_000
    """Most tags that are kept; further ones are skipped and counted."""

    listed_refs: int = 100_000
    """Most refs that are read from a server, kept or not."""

    objects: int = 500_000
    """Most objects in a pack."""

    object_bytes: int = 100 * MB
    """Largest single object, inflated or as the result of a delta."""

    inflated_floor_bytes: int = 256 * MB
    """Inflated bytes, including delta results, that every pack may have."""

    inflated_ratio: int = 200
    """Inflated bytes per wire byte that a pack above the floor may have."""

    inflated_ceiling_bytes: int = 16_000 * MB
    """Most inflated bytes of any pack."""

    disk_bytes: int = 100 * MB
    """Most bytes of a published version on disk: Git data and working tree."""

    entries: int = 100_000
    """Most files, links and directories in the working tree."""

    depth: int = 64
    """Deepest nesting of directories."""

    path_bytes: int = 3_000
    """Longest path in the working tree."""

    delta_memory_bytes: int = 32 * MB
    """Memory for deltas, trees and blobs that are needed again; others are read again from the pack file."""

    clone_seconds: float = 300
    """Longest duration of one attempt."""

    receive_seconds: float = 60
    """Longest wait for the next bytes of a pack that has begun; before that only :attr:`clone_seconds` counts."""

    min_bytes_per_second: int = 16_000
    """Least speed of a Git host, of the pack and before it; 0 for any."""

    rate_grace_seconds: float = 15
    """Time of a pack that has begun in which its speed does not matter."""

    rate_window_seconds: float = 30
    """Time over which the speed of a pack is averaged, and the longest that it may pause."""

    preparation_seconds: float = 60
    """Time that a Git host has for each answer before its first bytes, whatever progress it reports."""

    address_space_bytes: int = 2_048 * MB
    """``RLIMIT_AS`` of a child process."""

    def inflated_bytes(self, wire_bytes: int) -> int:
        """Return how many inflated bytes a pack of ``wire_bytes`` may have."""
        return min(self.inflated_ceiling_bytes, max(self.inflated_floor_bytes, self.inflated_ratio * wire_bytes))
