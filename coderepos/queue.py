"""Queue adapter: notifies the workers of django-q2 that a job is due; the only importer of ``django_q``.

A notification may be delivered never or many times, in any order; the claim in the database decides. Only ids travel:
the queue stores its arguments in clear text.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.db import connections, router, transaction
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule, Task
from django_q.signals import post_spawn
from django_q.tasks import async_task, schedule

from coderepos.conf import conf
from coderepos.models import Job, alias

TASKS: Final = "coderepos.tasks."
RUN_JOB: Final = f"{TASKS}run_job"
SCHEDULES: Final = {
    "coderepos.reap": {"func": "coderepos.tasks.reap", "schedule_type": Schedule.MINUTES, "minutes": 1},
    "coderepos.sweep": {"func": "coderepos.tasks.sweep", "schedule_type": Schedule.HOURLY},
}

logger = logging.getLogger(__name__)


def enqueue(job: Job) -> None:
    """Notify a worker of a job once the transaction commits; a queue that is down delays it until the next upkeep."""

    def send() -> None:
        if (busy := _transaction_that_would_be_lost()) is not None:
            transaction.on_commit(send, using=busy, robust=True)
            return
        async_task(RUN_JOB, str(job.pk), cluster=_cluster(), ack_failure=True)
        job.record_enqueued()

    # Not a partial: Django names the function in its log when it fails.
    transaction.on_commit(send, using=alias(), robust=True)


def _transaction_that_would_be_lost() -> str | None:
    """Return the alias of a database in a transaction that enqueueing now would roll back without a word.

    The ORM broker of django-q2 closes every connection that is not in autocommit mode, unless its own is not either.
    """
    if not Conf.ORM or connections[Conf.ORM].in_atomic_block:
        return None
    return next((one.alias for one in connections.all(initialized_only=True) if one.in_atomic_block), None)


def enqueue_at(job: Job, when: datetime) -> None:
    """Notify a worker of a job at ``when``, by the queue's scheduler; the upkeep does so where that is late."""
    schedule(RUN_JOB, str(job.pk), schedule_type=Schedule.ONCE, next_run=when, cluster=_cluster())


def waiting() -> int:
    """Return how many tasks wait for a worker, the host's own included."""
    return int(get_broker(_cluster()).queue_size())


def ensure_schedules() -> None:
    """Create the missing schedules of upkeep and sweep; does nothing before django-q2 has its tables."""
    using = router.db_for_write(Schedule)
    if not _has_table(Schedule, using):
        return
    for name, defaults in SCHEDULES.items():
        # The names are not unique in their table, which two `migrate` at once make use of.
        ours = Schedule.objects.using(using).filter(name=name)
        if not ours.exists():
            ours.create(name=name, cluster=_cluster(), **defaults)
        ours.exclude(cluster=_cluster()).update(cluster=_cluster())


def forget() -> dict[str, int]:
    """Remove our schedules, waiting tasks and task results, and return how many of each.

    Tasks that wait in a broker other than the ORM are left there: each is one line in a worker's log.
    """
    counts = {"schedules": _delete(Schedule), "results of tasks": _delete(Task)}
    if Conf.ORM and _has_table(OrmQ, Conf.ORM):
        waiting = OrmQ.objects.using(Conf.ORM)
        ours = [row.pk for row in waiting.iterator() if str(row.task.get("func")).startswith(TASKS)]
        counts["waiting tasks"] = waiting.filter(pk__in=ours).delete()[0]
    return counts


def _delete(model: Any) -> int:
    using = router.db_for_write(model)
    if not _has_table(model, using):
        return 0
    count: int = model.objects.using(using).filter(func__startswith=TASKS).delete()[0]
    return count


def _has_table(model: Any, using: str) -> bool:
    return model._meta.db_table in connections[using].introspection.table_names()


def _cluster() -> str | None:
    """Return the name of the cluster that runs this app's tasks; ``None`` for the host's own."""
    return conf.QUEUE_CLUSTER or None


def cluster_exists() -> bool:
    """Return whether the host's settings name the cluster that runs this app's tasks."""
    given = getattr(settings, "Q_CLUSTER", {})
    # A process of that very cluster has taken the entry out of the settings, and works by it.
    return _cluster() in (None, Conf.CLUSTER_NAME, *(given.get("ALT_CLUSTERS") or {}))


def is_cluster() -> bool:
    """Return whether this process is ``manage.py qcluster``, of which all others of the cluster are forks."""
    return "qcluster" in sys.argv


def on_worker_start(receiver: Callable[[], None]) -> None:
    """Call ``receiver`` in every worker of our cluster that starts; an error is logged, and the worker goes on."""

    def start(**_: Any) -> None:
        if _cluster() not in (None, Conf.CLUSTER_NAME):
            return
        try:
            receiver()
        except Exception:
            logger.exception("A worker started without its upkeep")

    post_spawn.connect(start, weak=False, dispatch_uid="coderepos.worker_start")


def settings_in_force() -> dict[str, Any]:
    """Return the settings that the system checks read, of the cluster that runs this app's tasks."""
    values: dict[str, Any] = {
        "timeout": Conf.TIMEOUT,
        "retry": Conf.RETRY,
        "workers": Conf.WORKERS,
        "ack_failures": Conf.ACK_FAILURES,
        "max_attempts": Conf.MAX_ATTEMPTS,
        "queue_limit": Conf.QUEUE_LIMIT,
        "bulk": Conf.BULK,
        "catch_up": Conf.CATCH_UP,
        "orm": Conf.ORM,
        "sync": Conf.SYNC,
    }
    if _cluster() in (None, Conf.CLUSTER_NAME):
        return values
    given: dict[str, Any] = settings.Q_CLUSTER
    own = given["ALT_CLUSTERS"][_cluster()]
    if "workers" in own and "queue_limit" not in given:
        values["queue_limit"] = own["workers"] ** 2
    # What is read where a task is sent, or one for all clusters, stays that of the host.
    return {**values, **{name: value for name, value in own.items() if name in values and name not in ("orm", "sync")}}
