"""The queue django-q2, the default; the only importer of ``django_q``."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from multiprocessing import parent_process
from typing import Any, Final

from django.conf import settings
from django.db import connections, router
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.exceptions import TimeoutException
from django_q.models import OrmQ, Schedule, Task
from django_q.signals import post_spawn
from django_q.tasks import async_task, schedule

from coderepos.conf import conf
from coderepos.queues import q_cluster
from coderepos.queues.protocol import PERIODIC, Problem, Queue, QueueFacts, TaskName, WorkerState

TASKS: Final = "coderepos.tasks."
BROKER_SECONDS: Final = 5
"""How long a Redis may take for an answer: a caller who connects a repository waits for it."""
COMMANDS: Final = frozenset({"qcluster", "coderepos_worker"})
"""Commands of ``manage.py`` that run a cluster."""


class DjangoQ(Queue):
    """django-q2: the host's own cluster, or the one that the setting ``QUEUE_CLUSTER`` names."""

    def enqueue(self, name: TaskName, key: uuid.UUID) -> None:
        """Send a task; one that fails is not delivered again, whatever the host's settings say."""
        async_task(TASKS + name, str(key), cluster=_cluster(), ack_failure=True, broker=_broker())

    def enqueue_at(self, name: TaskName, key: uuid.UUID, when: datetime) -> bool:
        """Schedule a task, which django-q2 sends 2 to 28 seconds late."""
        schedule(TASKS + name, str(key), schedule_type=Schedule.ONCE, next_run=when, cluster=_cluster())
        return True

    def periodic(self, tasks: Mapping[TaskName, timedelta]) -> bool:
        """Create the missing schedules; does nothing before django-q2 has its tables."""
        using = router.db_for_write(Schedule)
        if not _has_table(Schedule, using):
            return False
        for name, every in tasks.items():
            # The names are not unique in their table, which two `migrate` at once make use of.
            ours = Schedule.objects.using(using).filter(name=_schedule_name(name))
            if not ours.exists():
                ours.create(
                    name=_schedule_name(name),
                    cluster=_cluster(),
                    func=TASKS + name,
                    schedule_type=Schedule.MINUTES,
                    minutes=every // timedelta(minutes=1),
                )
            ours.exclude(cluster=_cluster()).update(cluster=_cluster())
        return True

    def facts(self) -> QueueFacts:
        """Count the tasks that wait, and look for the schedules."""
        waiting = int(_broker().queue_size())
        wanted = {_schedule_name(name): name for name in PERIODIC}
        schedules = Schedule.objects.using(router.db_for_write(Schedule)).filter(name__in=wanted, cluster=_cluster())
        there = set(schedules.values_list("name", flat=True))
        missing = tuple(task for name, task in wanted.items() if name not in there)
        return QueueFacts(reachable=True, waiting=waiting, missing_periodic=missing)

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with ``Q_CLUSTER``."""
        if not _cluster_exists():
            hint = "Add it to Q_CLUSTER['ALT_CLUSTERS'], or leave QUEUE_CLUSTER out to use the host's own cluster."
            message = f"QUEUE_CLUSTER names {conf.QUEUE_CLUSTER!r}, which Q_CLUSTER does not know."
            yield Problem(16, message, hint, is_error=True)
            return
        where = f"Q_CLUSTER['ALT_CLUSTERS'][{conf.QUEUE_CLUSTER!r}]" if conf.QUEUE_CLUSTER else "Q_CLUSTER"
        yield from q_cluster.problems(settings_in_force(), where)

    def transaction_to_await(self) -> str | None:
        """Return the alias of a database in a transaction that enqueueing now would roll back without a word.

        The ORM broker of django-q2 closes each connection that is not in autocommit mode, unless its own is not either.
        """
        if not Conf.ORM or connections[Conf.ORM].in_atomic_block:
            return None
        return next((one.alias for one in connections.all(initialized_only=True) if one.in_atomic_block), None)

    def forget(self) -> dict[str, int]:
        """Remove our schedules, waiting tasks and task results, and return how many of each.

        Tasks that wait in a broker other than the ORM are left there: each is one line in a worker's log.
        """
        counts = {"schedules": _delete(Schedule), "results of tasks": _delete(Task)}
        if Conf.ORM and _has_table(OrmQ, Conf.ORM):
            waiting = OrmQ.objects.using(Conf.ORM)
            ours = [row.pk for row in waiting.iterator() if str(row.task.get("func")).startswith(TASKS)]
            counts["waiting tasks"] = waiting.filter(pk__in=ours).delete()[0]
        return counts

    def on_worker_start(self, receiver: Callable[[], None]) -> None:
        """Call ``receiver`` in every worker of our cluster that starts."""

        def start(**_: Any) -> None:
            # A cluster that runs its tasks in the process that enqueues them has no workers.
            if _cluster() in (None, Conf.CLUSTER_NAME) and parent_process() is not None:
                receiver()

        post_spawn.connect(start, weak=False, dispatch_uid="coderepos.worker_start")

    def why_no_workers(self) -> str | None:
        """Return how to start the cluster of that name, whose values are read before any command could set it."""
        if _cluster() in (None, Conf.CLUSTER_NAME):
            return None
        return f"Start it with Q_CLUSTER_NAME={_cluster()} in the environment."

    def run_workers(self, *, report: Callable[[WorkerState], None], is_stopping: Callable[[], bool]) -> bool:
        """Run the cluster."""
        from coderepos.queues import q_process

        return q_process.run_cluster(report=report, is_stopping=is_stopping)

    def is_timeout(self, error: BaseException) -> bool:
        """Return whether the cluster's ``timeout`` is over."""
        return isinstance(error, TimeoutException)

    def is_cluster(self) -> bool:
        """Return whether this process runs a cluster, of which all others of it are forks."""
        return not COMMANDS.isdisjoint(sys.argv)


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


def _broker() -> Any:
    """Return the broker; with Redis one that gives up soon, unless the host chose other time-outs."""
    broker = get_broker(_cluster())
    if any((Conf.BROKER_CLASS, Conf.IRON_MQ, Conf.SQS, Conf.ORM, Conf.MONGO, Conf.DJANGO_REDIS)):
        return broker
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options: dict[str, Any] = {
        "socket_timeout": BROKER_SECONDS,
        "socket_connect_timeout": BROKER_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    if isinstance(Conf.REDIS, str):
        broker.connection = Redis.from_url(Conf.REDIS, **options)
    else:
        broker.connection = Redis(**{**options, **Conf.REDIS})
    return broker


def _cluster() -> str | None:
    """Return the name of the cluster that runs this app's tasks; ``None`` for the host's own."""
    return conf.QUEUE_CLUSTER or None


def _cluster_exists() -> bool:
    given = getattr(settings, "Q_CLUSTER", {})
    # A process of that very cluster has taken the entry out of the settings, and works by it.
    return _cluster() in (None, Conf.CLUSTER_NAME, *(given.get("ALT_CLUSTERS") or {}))


def _schedule_name(name: TaskName) -> str:
    return f"coderepos.{name}"


def _delete(model: Any) -> int:
    using = router.db_for_write(model)
    if not _has_table(model, using):
        return 0
    count: int = model.objects.using(using).filter(func__startswith=TASKS).delete()[0]
    return count


def _has_table(model: Any, using: str) -> bool:
    return model._meta.db_table in connections[using].introspection.table_names()
