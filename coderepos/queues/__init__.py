"""The host's queue, by the adapter that the setting ``QUEUE`` names.

Each adapter is the only importer of its library. The table of jobs is the source of truth: a queue only notifies.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from django.apps import apps
from django.db import transaction

from coderepos.conf import ConfigurationError, conf, imported
from coderepos.models import Job, alias
from coderepos.queues.protocol import PERIODIC, Problem, Queue, QueueFacts

__all__ = [
    "Problem",
    "Queue",
    "QueueFacts",
    "current",
    "enqueue",
    "enqueue_at",
    "ensure_periodic",
    "is_timeout",
    "on_worker_start",
]

NEEDED_APPS: Final = {"coderepos.queues.django_q.DjangoQ": "django_q"}
"""Apps without which the module of an adapter cannot even be imported."""

logger = logging.getLogger(__name__)


def current() -> Queue:
    """Return the queue that the setting ``QUEUE`` names.

    :raises ConfigurationError: it cannot be imported, or lacks an app in ``INSTALLED_APPS``.
    """
    return _load(conf.QUEUE)


@functools.cache
def _load(path: str) -> Queue:
    needed = NEEDED_APPS.get(path)
    if needed and not apps.is_installed(needed):
        raise ConfigurationError(
            f'Add "{needed}" to INSTALLED_APPS: coderepos clones in its workers. Or let QUEUE name another queue.'
        )
    kind = imported("QUEUE")
    if not isinstance(kind, type) or Queue not in kind.__mro__:
        raise ConfigurationError(f"CODEREPOS['QUEUE'], {path!r}, does not derive from coderepos.queues.protocol.Queue.")
    try:
        queue: Queue = kind()
    except Exception as error:
        raise ConfigurationError(f"CODEREPOS['QUEUE'], {path!r}, cannot be used: {error}") from error
    return queue


def enqueue(job: Job) -> None:
    """Notify a worker of a job once the transaction commits; a queue that is down delays it until the next upkeep."""

    def send() -> None:
        queue = current()
        if (busy := queue.transaction_to_await()) is not None:
            transaction.on_commit(send, using=busy, robust=True)
            return
        queue.enqueue("run_job", job.pk)
        job.record_enqueued()

    # Not a partial: Django names the function in its log when it fails.
    transaction.on_commit(send, using=alias(), robust=True)


def enqueue_at(job: Job, when: datetime) -> None:
    """Notify a worker of a job at ``when``; the upkeep does so where the queue cannot, or is late."""
    current().enqueue_at("run_job", job.pk, when)


def ensure_periodic() -> None:
    """Have the queue call the periodic tasks, where it can."""
    current().periodic(PERIODIC)


def is_timeout(error: BaseException) -> bool:
    """Return whether the queue ended a task by this exception because it took too long."""
    return current().is_timeout(error)


def on_worker_start(receiver: Callable[[], None]) -> None:
    """Call ``receiver`` in every worker that starts; an error is logged, and the worker goes on."""

    def start() -> None:
        try:
            receiver()
        except Exception:
            logger.exception("A worker started without its upkeep")

    current().on_worker_start(start)
