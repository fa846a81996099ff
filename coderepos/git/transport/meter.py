"""What arrives on a connection, counted in bytes and time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from coderepos.exceptions import GitError, RemoteTimeout


class Meter:
    """Counts what arrives on a connection, in time and bytes.

    :param seconds: time for everything from now on. A host that makes a pack may be silent for all of it.
    :param receive_seconds: longest wait for the next bytes once the pack has begun.
    :param allowed_bytes: bytes that may arrive until :meth:`allow` says otherwise.
    :param error: makes the error for more of them, out of their number.
    """

    def __init__(
        self, *, seconds: float, receive_seconds: float, allowed_bytes: int, error: Callable[[int], GitError]
    ) -> None:
        self.received_bytes = 0
        self.has_begun = False
        """Whether the pack has begun."""
        self._receive_seconds: Final = receive_seconds
        self._deadline: Final = time.monotonic() + seconds
        self._allowed_bytes = allowed_bytes
        self._error = error

    def allow(self, allowed_bytes: int, error: Callable[[int], GitError]) -> None:
        """Set anew how many bytes may arrive, those that did included."""
        self._allowed_bytes = allowed_bytes
        self._error = error

    def wait_seconds(self) -> float:
        """Return how long the next bytes may take.

        :raises RemoteTimeout: the time is over.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise RemoteTimeout
        return min(left, self._receive_seconds) if self.has_begun else left

    def received(self, size: int) -> None:
        """Count bytes that arrived, or what a thing that arrived weighs besides its bytes.

        :raises GitError: there are more of them than is allowed.
        """
        self.received_bytes += size
        if self.received_bytes > self._allowed_bytes:
            raise self._error(self.received_bytes)
