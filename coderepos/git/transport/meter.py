"""Bounds what arrives on a connection, in bytes and in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from coderepos.exceptions import GitError, RemoteTimeout, RemoteTooSlow
from coderepos.git.transport.pace import Pace


class Meter:
    """Counts the bytes that arrive on a connection, and keeps its deadline.

    :param seconds: time for everything from now on. Before the pack the host may be silent for all of it.
    :param receive_seconds: longest wait for the next bytes once the pack has begun.
    :param allowed_bytes: bytes that may arrive, until :meth:`allow` changes that.
    :param error: returns the error for a number of bytes that exceeds them.
    :param pace: what the speed of the host is held to; any speed will do where ``None``.
    """

    def __init__(
        self,
        *,
        seconds: float,
        receive_seconds: float,
        allowed_bytes: int,
        error: Callable[[int], GitError],
        pace: Pace | None = None,
    ) -> None:
        self.received_bytes = 0
        self.pack_has_begun = False
        """Whether the pack has begun."""
        self._receive_seconds: Final = receive_seconds
        self._deadline: Final = time.monotonic() + seconds
        self._allowed_bytes = allowed_bytes
        self._error = error
        self._pace: Final = pace
        self._is_pace_shorter = False

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

    def silence_seconds(self) -> float:
        """Begin to wait for the next bytes of an answer, and return for how long.

        :raises RemoteTimeout: the deadline has passed.
        """
        seconds = self.wait_seconds()
        if self._pace is None:
            return seconds
        silence_seconds = self._pace.begin_wait()
        self._is_pace_shorter = silence_seconds < seconds
        return min(seconds, silence_seconds)

    def silence_error(self) -> GitError:
        """Return the error for a host that sent nothing for as long as :meth:`silence_seconds` said last."""
        return RemoteTooSlow() if self._is_pace_shorter else RemoteTimeout()

    def begin_request(self, *, awaits_pack: bool = False) -> None:
        """Note that a request is sent; the answer has the pack if ``awaits_pack``."""
        if self._pace is not None:
            self._pace.begin_request(awaits_pack=awaits_pack)

    def take_pack(self, size_bytes: int) -> None:
        """Note how much of the pack was in what arrived last.

        :raises RemoteTooSlow: the pack arrives too slowly.
        """
        if self._pace is not None:
            self._pace.take_pack(size_bytes)

    def arrived(self, size_bytes: int) -> None:
        """Count bytes that arrived after a wait.

        :raises GitError: more have arrived than allowed.
        """
        if self._pace is not None:
            self._pace.end_wait(size_bytes)
        self.received(size_bytes)

    def received(self, size: int) -> None:
        """Count bytes, or a fixed overhead.

        :raises GitError: more have arrived than allowed.
        """
        self.received_bytes += size
        if self.received_bytes > self._allowed_bytes:
            raise self._error(self.received_bytes)
