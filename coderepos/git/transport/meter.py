"""Bounds what arrives on a connection, in bytes and in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from coderepos.exceptions import GitError, RemoteTimeout


class Meter:
    """Counts the bytes that arrive on a connection, and keeps its deadline.

    :param seconds: time for everything from now on. Before the pack the host may be silent for all of it.
    :param receive_seconds: longest wait for the next bytes once the pack has begun.
    :param allowed_bytes: bytes that may arrive, until :meth:`allow` changes that.
    :param error: returns the error for a number of bytes that exceeds them.
    """

    def __init__(
        self, *, seconds: float, receive_seconds: float, allowed_bytes: int, error: Callable[[int], GitError]
    ) -> None:
        self.received_bytes = 0
        self.pack_has_begun = False
        """Whether the pack has begun."""
        self._receive_seconds: Final = receive_seconds
        self._deadline: Final = time.monotonic() + seconds
        self._allowed_bytes = allowed_bytes
        self._error = error

    def allow(self, allowed_bytes: int, error: Callable[[int], GitError]) -> None:
        """Change how many bytes may arrive in all, including those that have."""
        self._allowed_bytes = allowed_bytes
        self._error = error

    def wait_seconds(self) -> float:
        """Return how long to wait for the next bytes.

        :raises RemoteTimeout: the deadline has passed.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise RemoteTimeout
        return min(left, self._receive_seconds) if self.pack_has_begun else left

    def received(self, size: int) -> None:
        """Count bytes that arrived, or a fixed overhead.

        :raises GitError: more have arrived than allowed.
        """
        self.received_bytes += size
        if self.received_bytes > self._allowed_bytes:
            raise self._error(self.received_bytes)
