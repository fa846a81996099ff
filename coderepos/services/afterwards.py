"""Clean-up, notes and notifications that follow an outcome and must not change it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.db import transaction
from django.dispatch import Signal

from coderepos.models import CodeRepository, alias

logger = logging.getLogger(__name__)


@contextmanager
def failures_logged(message: str, *arguments: object) -> Iterator[None]:
    """Log an exception of a ``with`` block instead of raising it."""
    try:
        yield
    except Exception:
        logger.exception(message, *arguments)


def published(repository: CodeRepository) -> dict[str, str]:
    """Return what signals say of the version that was published last, empty where there is none."""
    version = repository.version
    return {"commit_id": repository.commit_id if version else "", "version": version}


def announce(signal: Signal, *, using: str | None = None, **arguments: Any) -> None:
    """Send a signal of :mod:`coderepos.signals` once what it tells is committed; at once outside of a transaction.

    An exception of a receiver is logged by Django, and reaches neither the other receivers nor the caller.

    :param using: alias of the database in which the transaction is.
    """
    send = partial(signal.send_robust, sender=CodeRepository, **arguments)
    transaction.on_commit(send, using=using or alias(), robust=True)
