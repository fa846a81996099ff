"""What comes after an outcome, and must not change it: clean-up, notes, notifications."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def failures_logged(message: str, *arguments: object) -> Iterator[None]:
    """Log what a ``with`` block raises instead of raising it over the outcome."""
    try:
        yield
    except Exception:
        logger.exception(message, *arguments)
