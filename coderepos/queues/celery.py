"""Celery, by the app that is current where Django starts."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from celery import _state, current_app, signals
from celery.exceptions import SoftTimeLimitExceeded
from django.utils import timezone
from django.utils.module_loading import import_string
from kombu import Connection

from coderepos.conf import conf
from coderepos.queue_timeouts import least_timeout_seconds
from coderepos.queues.protocol import Problem, Queue, QueueFacts, TaskName

BROKER_SECONDS: Final = 5
"""How long a broker may take for an answer: a caller who connects a repository waits for it."""

LONGEST_DELAY: Final = timedelta(minutes=10)
"""A worker keeps what is to run later, and on Redis its notification is delivered again meanwhile."""

GREEN_POOLS: Final = ("gevent", "eventlet")

_TIMEOUTS: Final[dict[str, dict[str, float]]] = {
    "redis": {"socket_timeout": BROKER_SECONDS, "socket_connect_timeout": BROKER_SECONDS},
    "amqp": {"read_timeout": BROKER_SECONDS, "write_timeout": BROKER_SECONDS},
}
"""Options of a transport's connection, by its driver."""


class Celery(Queue):
    """The Celery app of the host, and its queue ``QUEUE_NAME``; where that is empty, its routes decide."""

    def __init__(self) -> None:
        # Threads of web servers do not see the app that the main thread made current.
        self._app = current_app._get_current_object()
        import_string("coderepos.tasks.celery.run_job")

    def enqueue(self, name: TaskName, key: uuid.UUID) -> None:
        """Send a task, with a time limit above that of a clone, whatever the app's own is."""
        self._send(name, key)

    def enqueue_at(self, name: TaskName, key: uuid.UUID, when: datetime) -> bool:
        """Send a task that a worker keeps until ``when``, unless that is more than :data:`LONGEST_DELAY` ahead."""
        if timezone.is_naive(when):
            when = timezone.make_aware(when)
        if when - timezone.now().astimezone(when.tzinfo) > LONGEST_DELAY:
            return False
        self._send(name, key, eta=when)
        return True

    def facts(self) -> QueueFacts:
        """Ask the broker how many tasks wait in the queue."""
        with self._connection() as connection:
            channel = connection.default_channel
            try:
                waiting: int | None = channel.queue_declare(self._queue_name(), passive=True).message_count
            except connection.channel_errors:  # no worker has made the queue yet, and nobody has sent to it
                waiting = 0
        return QueueFacts(reachable=True, waiting=waiting)

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the app's configuration."""
        if self._app is _state.default_app and self._app.main == "default":
            hint = "Import it in the package of the settings, as Celery's documentation for Django does."
            yield Problem(50, "No Celery app is loaded where Django starts.", hint, is_error=True)
            return
        if self._app.conf.task_always_eager:
            yield Problem(34, "task_always_eager clones inside the web request.", "Set it to False.")
        if self._app.conf.worker_pool in GREEN_POOLS:
            hint = "Use prefork, threads or solo for the worker of the app's queue."
            yield Problem(38, f"No job runs in workers with the pool {self._app.conf.worker_pool}.", hint)
        if self._app.conf.worker_hijack_root_logger and not signals.setup_logging.receivers:
            hint = "Set worker_hijack_root_logger to False."
            yield Problem(39, "Celery's workers replace the handlers of LOGGING, and what masks access tokens.", hint)

    def on_worker_start(self, receiver: Callable[[], None]) -> None:
        """Call ``receiver`` in each process of a prefork pool, and in a worker whose pool has no processes."""

        def start_process(**_: Any) -> None:
            receiver()

        def start_worker(*, sender: Any, **_: Any) -> None:
            # A process that forks others must have no threads of ours.
            if type(sender.pool).__module__ in ("celery.concurrency.solo", "celery.concurrency.thread"):
                receiver()

        signals.worker_process_init.connect(start_process, weak=False, dispatch_uid="coderepos.worker_start")
        signals.worker_ready.connect(start_worker, weak=False, dispatch_uid="coderepos.worker_start")

    def is_timeout(self, error: BaseException) -> bool:
        """Return whether the soft time limit of the task is over."""
        return isinstance(error, SoftTimeLimitExceeded)

    def is_cluster(self) -> bool:
        """Return whether this process is ``celery worker``."""
        return "celery" in Path(sys.argv[0]).parts[-2:] and "worker" in sys.argv[1:]

    def _send(self, name: TaskName, key: uuid.UUID, **options: Any) -> None:
        seconds = least_timeout_seconds(conf.GIT_CLONE_TIMEOUT)
        if conf.QUEUE_NAME:
            options["queue"] = conf.QUEUE_NAME
        with self._connection() as connection:
            self._app.send_task(
                f"coderepos.tasks.{name}",
                args=[str(key)],
                connection=connection,
                retry=False,
                ignore_result=True,
                time_limit=seconds,
                soft_time_limit=seconds,
                **options,
            )

    def _queue_name(self) -> str:
        route = self._app.amqp.router.route({}, "coderepos.tasks.run_job")
        name: str = conf.QUEUE_NAME or route["queue"].name
        return name

    def _connection(self) -> Connection:
        """Return a connection that gives up soon, other than those of the app: a broker may hang."""
        plain = self._app.connection_for_write()
        timeouts = _TIMEOUTS.get(plain.transport.driver_type, {})
        return self._app.connection_for_write(
            connect_timeout=BROKER_SECONDS,
            transport_options={"max_retries": 1, "connect_retries_timeout": BROKER_SECONDS, **timeouts},
        )
