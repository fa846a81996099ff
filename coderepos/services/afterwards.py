"""Clean-up, notes and notifications that follow an outcome and must not change it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def failures_logged(message: str, *arguments: object) -> Iterator[None]:
    """Log an exception of a ``with`` block instead of raising it."""
    try:
        yield
    except Exception:
        logger.exception(message, *arguments)
