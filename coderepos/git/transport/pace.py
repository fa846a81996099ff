"""How fast a Git host has to send, by a clock that runs only while this side waits for it.

Time in which the next process takes no more pack bytes does not count, so a slow disk blames no host.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from coderepos.exceptions import RemoteTooSlow
from coderepos.git.limits import Limits


class Pace:
    """Watches the speed of one host, over all its connections.

    - Before the pack it has ``preparation_seconds`` for each answer, and for the bytes that arrive as long as they may
      take. In the answer with the pack these count for nothing: progress is life for that time and no longer.
    - Of the pack ``rate_grace_seconds`` are free; then the average over ``rate_window_seconds`` counts.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits: Final = limits
        self._clock_seconds = 0.0
        self._waiting_since: float | None = None
        self._free_until_seconds = limits.preparation_seconds
        self._awaits_pack = False
        self._pack_begins_seconds: float | None = None
        self._window: deque[tuple[float, int]] = deque()
        self._window_bytes = 0

    def begin_request(self, *, awaits_pack: bool = False) -> None:
        """Grant the host the time to prepare an answer, which has the pack if ``awaits_pack``."""
        self._awaits_pack = self._awaits_pack or awaits_pack
        if self._pack_begins_seconds is None:
            self._free_until_seconds = self._clock_seconds + self._limits.preparation_seconds

    def begin_wait(self) -> float:
        """Begin to wait for the next bytes, and return for how long the host may be silent."""
        self._waiting_since = time.monotonic()
        if self._pack_begins_seconds is not None:
            return self._limits.rate_window_seconds
        return max(0.001, self._free_until_seconds - self._clock_seconds)

    def end_wait(self, size_bytes: int) -> None:
        """Count what arrived."""
        if self._waiting_since is not None:
            self._clock_seconds += time.monotonic() - self._waiting_since
            self._waiting_since = None
        if not self._awaits_pack:
            self._free_until_seconds += size_bytes / self._limits.min_bytes_per_second

    def take_pack(self, size_bytes: int) -> None:
        """Count bytes of the pack, of which none may have arrived.

        :raises RemoteTooSlow: they are fewer than they have to be.
        """
        now = self._clock_seconds
        if self._pack_begins_seconds is None:
            if not size_bytes:
                return
            self._pack_begins_seconds = now
            self._free_until_seconds = now + self._limits.rate_grace_seconds
        self._add(now, size_bytes)
        if now < self._free_until_seconds:
            return
        seconds = min(now - self._pack_begins_seconds, self._limits.rate_window_seconds)
        if self._window_bytes < seconds * self._limits.min_bytes_per_second:
            raise RemoteTooSlow

    def _add(self, now: float, size_bytes: int) -> None:
        """Add to the window, in steps of a second, and forget what is older."""
        if self._window and now - self._window[-1][0] < 1:
            began, before_bytes = self._window.pop()
            self._window.append((began, before_bytes + size_bytes))
        else:
            self._window.append((now, size_bytes))
        self._window_bytes += size_bytes
        while now - self._window[0][0] > self._limits.rate_window_seconds:
            self._window_bytes -= self._window.popleft()[1]
