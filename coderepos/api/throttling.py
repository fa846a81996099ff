"""How often one user may have Git hosts asked; a call that was refused before that is given back."""

from __future__ import annotations

from typing import Any, Final

from rest_framework.request import Request
from rest_framework.throttling import UserRateThrottle
from rest_framework.views import APIView

from coderepos import access
from coderepos.conf import conf

REFUSED_FACTOR: Final = 10
"""How many calls for each one of the rate may be refused before a Git host is asked: each leaves a row in the trail."""


class ConnectThrottle(UserRateThrottle):
    """Counts the calls of one user that try credentials on a remote against ``CONNECT_RATE_PER_USER``."""

    scope = "coderepos_connect"
    num_requests: int
    duration: int
    _counted_at: float | None = None

    def get_rate(self) -> str:
        """Return the rate that is set right now."""
        return conf.CONNECT_RATE_PER_USER

    def parse_rate(self, rate: str | None) -> tuple[int, int]:
        """Return how many calls in how many seconds."""
        return access.parse_rate(rate or "")

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Return whether the call may go on; it is counted then."""
        self.key, self.now = self.get_cache_key(request, view), self.timer()
        refused = self._refused()
        if len(refused) >= REFUSED_FACTOR * self.num_requests:
            self.history = refused[-self.num_requests :]
            return False
        allowed: bool = super().allow_request(request, view)
        self._counted_at = self.now if allowed else None
        return allowed

    def give_back(self) -> None:
        """Count the call among those that were refused, instead of among those that asked a Git host."""
        if self._counted_at is None or self.key is None:
            return
        history: list[float] = self.cache.get(self.key, [])
        if self._counted_at in history:
            history.remove(self._counted_at)
            self.cache.set(self.key, history, self.duration)
        self.cache.set(self._refused_key, [self._counted_at, *self._refused()], self.duration)
        self._counted_at = None

    @property
    def _refused_key(self) -> str:
        return f"{self.key}_refused"

    def _refused(self) -> list[Any]:
        """Return when calls were refused lately, the last one first."""
        since = self.now - self.duration
        return [when for when in self.cache.get(self._refused_key, []) if when > since]
