"""The tasks that workers run: each unpacks its arguments and calls one service.

Nothing of the app is imported before it is known to be installed: a task that outlives the app must not end a worker,
as an error at import would.
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
    """Run one attempt of a job, or of another due one, and return its outcome."""

    def work() -> str:
        from coderepos import services

        return services.worker.run_clone(job_id=uuid.UUID(job_id))

    return _if_installed(work, "run_job")


def reap() -> str:
    """Expire leases and enqueue overlooked jobs: the fallback of the upkeep thread in every worker."""

    def work() -> str:
        from coderepos import services

        return services.worker.reap()

    return _if_installed(work, "reap")


def sweep() -> str:
    """Sweep this machine's sandbox root, if that is due."""

    def work() -> str:
        from coderepos import services

        return services.worker.sweep_if_due(services.worker.register_node())

    return _if_installed(work, "sweep")


def _if_installed(work: Callable[[], str], name: str) -> str:
    """Do the work; a task that runs before the tables exist, or after they were dropped, is one line in the log."""
    if apps.is_installed("coderepos"):
        try:
            return work()
        except DatabaseError:
            from coderepos.models import tables_exist

            if tables_exist():
                raise
    logger.warning("%s is skipped: coderepos is not installed here, or not migrated", name)
    return NOT_INSTALLED
