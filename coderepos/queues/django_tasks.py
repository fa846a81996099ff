"""Django's own tasks: ``django.tasks``, or before Django 6.0 its backport ``django-tasks``."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.utils import timezone
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV
from django.utils.module_loading import import_string

try:
    from django.tasks import task_backends
    from django.tasks.backends.dummy import DummyBackend
    from django.tasks.backends.immediate import ImmediateBackend
except ImportError:  # before Django 6.0
    from django_tasks import task_backends  # type: ignore[no-redef]
    from django_tasks.backends.dummy import DummyBackend  # type: ignore[no-redef]
    from django_tasks.backends.immediate import ImmediateBackend  # type: ignore[no-redef]

from coderepos.conf import conf
from coderepos.queues.protocol import Problem, Queue, QueueFacts, TaskName

TASKS: Final = "coderepos.tasks.django_tasks."
WORKERLESS: Final = {ImmediateBackend: "clones inside the web request", DummyBackend: "never clones"}


class DjangoTasks(Queue):
    """The backend of ``TASKS`` that the setting ``QUEUE_BACKEND`` names, and its queue ``QUEUE_NAME``."""

    def enqueue(self, name: TaskName, key: uuid.UUID) -> None:
        """Send a task."""
        self._task(name).enqueue(str(key))

    def enqueue_at(self, name: TaskName, key: uuid.UUID, when: datetime) -> bool:
        """Send a task at ``when``, where the backend can."""
        if not self._backend().supports_defer:
            return False
        if not settings.USE_TZ and timezone.is_aware(when):
            when = timezone.make_naive(when)
        self._task(name).using(run_after=when).enqueue(str(key))
        return True

    def facts(self) -> QueueFacts:
        """Count the tasks that wait, where the backend is the one of ``django-tasks-db``; others cannot tell."""
        if (results := self._stored_tasks()) is None:
            return QueueFacts(reachable=None, waiting=None)
        return QueueFacts(reachable=True, waiting=results.ready().filter(**self._place()).count())

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with ``TASKS``."""
        if conf.QUEUE_BACKEND not in task_backends.settings:
            hint = "Add it to TASKS, or let QUEUE_BACKEND name another one."
            yield _unusable(f"QUEUE_BACKEND names {conf.QUEUE_BACKEND!r}, which TASKS does not know.", hint)
            return
        try:
            backend = self._backend()
        except ImproperlyConfigured as error:
            yield _unusable(
                f"TASKS[{conf.QUEUE_BACKEND!r}] cannot be used: {error}", "Name a backend that is installed."
            )
            return
        hint = "Use a backend with workers, such as django_tasks_db.DatabaseBackend."
        for kind, why_not in WORKERLESS.items():
            if isinstance(backend, kind):
                where = f"TASKS[{conf.QUEUE_BACKEND!r}]"
                yield _unusable(f"{where} is a {kind.__name__}, which {why_not}.", hint)
        if backend.queues and self._place()["queue_name"] not in backend.queues:
            message = f"QUEUE_NAME {self._place()['queue_name']!r} is none of QUEUES in TASKS[{conf.QUEUE_BACKEND!r}]."
            yield _unusable(message, "Add it there, or let QUEUE_NAME name another one.")

    def forget(self) -> dict[str, int]:
        """Remove our tasks and their results, and return how many."""
        if (results := self._stored_tasks()) is None:
            return {}
        using = router.db_for_write(results.model)
        if results.model._meta.db_table not in connections[using].introspection.table_names():
            return {}
        return {"tasks": results.using(using).filter(task_path__startswith=TASKS).delete()[0]}

    def on_worker_start(self, receiver: Callable[[], None]) -> None:
        """Call ``receiver`` in ``manage.py db_worker``, which runs its tasks by itself; others have no such hook."""
        if self.is_cluster():
            receiver()

    def is_cluster(self) -> bool:
        """Return whether this process is ``manage.py db_worker`` of ``django-tasks-db``."""
        if "db_worker" not in sys.argv[1:2]:
            return False
        # With Django's reloader, a first process starts the one that works, and hands its environment on.
        reloads = (settings.DEBUG and "--no-reload" not in sys.argv) or "--reload" in sys.argv
        return not reloads or os.environ.get(DJANGO_AUTORELOAD_ENV) == "true"

    def _backend(self) -> Any:
        return task_backends[conf.QUEUE_BACKEND]

    def _place(self) -> dict[str, str]:
        return {"backend_name": conf.QUEUE_BACKEND, "queue_name": conf.QUEUE_NAME or "default"}

    def _task(self, name: TaskName) -> Any:
        # By name: what workers call stands above the adapters.
        return import_string(TASKS + name).using(backend=conf.QUEUE_BACKEND, queue_name=self._place()["queue_name"])

    def _stored_tasks(self) -> Any:
        """Return the tasks in the database; ``None`` where the backend keeps them elsewhere."""
        if not apps.is_installed("django_tasks_db"):
            return None
        from django_tasks_db import DatabaseBackend
        from django_tasks_db.models import DBTaskResult

        if not isinstance(self._backend(), DatabaseBackend):
            return None

        return DBTaskResult.objects.all()


def _unusable(message: str, hint: str) -> Problem:
    return Problem(50, message, hint, is_error=True)
