"""The tasks as tasks of Celery; imported where Django starts, so that workers know them.

They are acknowledged when they end, and store no result. A task that dies with its process is not repeated by Celery:
the lease of its job runs out.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from celery import shared_task
from kombu.utils.compat import detect_environment

from coderepos import tasks

REFUSED: Final = "refused"

logger = logging.getLogger(__name__)

_OPTIONS: Final[dict[str, Any]] = {"acks_late": True, "ignore_result": True, "max_retries": 0}


@shared_task(name="coderepos.tasks.run_job", **_OPTIONS)  # type: ignore[untyped-decorator]
def run_job(job_id: str) -> str:
    """See :func:`coderepos.tasks.run_job`; refused where green threads share the process."""
    if (environment := detect_environment()) != "default":
        logger.critical(
            "No job runs in a worker with %s: start one with the pool prefork, threads or solo", environment
        )
        return REFUSED
    return tasks.run_job(job_id)


@shared_task(name="coderepos.tasks.reap", **_OPTIONS)  # type: ignore[untyped-decorator]
def reap() -> str:
    """See :func:`coderepos.tasks.reap`; for a schedule of Celery beat."""
    return tasks.reap()


@shared_task(name="coderepos.tasks.sweep", **_OPTIONS)  # type: ignore[untyped-decorator]
def sweep() -> str:
    """See :func:`coderepos.tasks.sweep`; for a schedule of Celery beat."""
    return tasks.sweep()
