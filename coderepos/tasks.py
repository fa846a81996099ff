"""What a worker calls: unpack, call a service, nothing else.

Nothing of the app is imported before it is known to be installed: a task that outlives it must not end a worker,
which an error at import would.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Final

from django.apps import apps
from django.db import DatabaseError

NOT_INSTALLED: Final = "not installed"

logger = logging.getLogger(__name__)


def run_job(job_id: str) -> str:
    """Work on one job if it is free; returns what became of it."""

    def work() -> str:
        from coderepos import services

        return services.run_clone(job_id=uuid.UUID(job_id))

    return _if_installed(work, "run_job")


def reap() -> str:
    """Take jobs from silent workers, and notify of those that wait: the second way beside the workers' own upkeep."""

    def work() -> str:
        from coderepos import services

        return services.reap()

    return _if_installed(work, "reap")


def sweep() -> str:
    """Remove what no row of the database knows from this machine's sandbox root."""

    def work() -> str:
        from coderepos import services

        return services.sweep_if_due(services.register_node())

    return _if_installed(work, "sweep")


def _if_installed(work: Callable[[], str], name: str) -> str:
    """Do the work; a task that comes before the tables are made, or after they went, is one line in the log."""
    if apps.is_installed("coderepos"):
        try:
            return work()
        except DatabaseError:
            from coderepos.models import tables_exist

            if tables_exist():
                raise
    logger.warning("%s is left out: coderepos is not installed here, or not migrated", name)
    return NOT_INSTALLED
