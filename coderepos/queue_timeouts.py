"""How long the queue has to leave a task alone; what ``timeout`` and ``retry`` of ``Q_CLUSTER`` follow from."""

from __future__ import annotations

import math
from typing import Final

MARGIN_SECONDS: Final = 60


def least_timeout_seconds(clone_seconds: float) -> float:
    """Return the least ``timeout``: a clone ends by its own limit, and reports that, before the queue kills it."""
    return clone_seconds + MARGIN_SECONDS


def longest_hold_seconds(timeout_seconds: float, workers: int) -> float:
    """Return how long a cluster may hold a task before it is done.

    A task may wait behind two others that were prefetched, as many at once as there are workers, and then runs itself.
    """
    return timeout_seconds * (1 + math.ceil(2 / max(1, workers)))


def least_retry_seconds(timeout_seconds: float, workers: int) -> float:
    """Return a ``retry`` that hands no task to a second worker while the first one holds it."""
    return longest_hold_seconds(timeout_seconds, workers) + MARGIN_SECONDS
