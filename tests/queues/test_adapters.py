"""What the adapters to Django's tasks and to Celery send, and which settings they complain of."""

from __future__ import annotations

import sys
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, get_args

import celery as celery_library
import pytest
from celery import signals
from celery.exceptions import SoftTimeLimitExceeded
from django.utils import timezone
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV
from django.utils.module_loading import import_string
from pytest_django import Settings

from coderepos import tasks
from coderepos.queues import celery as celery_queue
from coderepos.queues import django_tasks
from coderepos.queues.celery import Celery
from coderepos.queues.django_tasks import DjangoTasks
from coderepos.queues.protocol import PERIODIC, Queue, TaskName
from coderepos.tasks import celery as celery_tasks
from coderepos.tasks import django_tasks as django_tasks_tasks

KEY = uuid.UUID(int=7)
LIBRARY = type(vars(django_tasks)["task_backends"]).__module__
DUMMY = f"{LIBRARY}.backends.dummy.DummyBackend"
IMMEDIATE = f"{LIBRARY}.backends.immediate.ImmediateBackend"
ImmediateBackend: Any = import_string(IMMEDIATE)
BaseTaskBackend: Any = import_string(f"{LIBRARY}.backends.base.BaseTaskBackend")


class InRequest(ImmediateBackend):  # type: ignore[misc]  # its library has no types
    """A backend of a host that works in the web request."""


class DummyBackend(BaseTaskBackend):  # type: ignore[misc]
    """A backend of a host with workers, which is called as one that has none."""

    def enqueue(self, *arguments: Any) -> None:
        """Send nothing."""


def backends(monkeypatch: pytest.MonkeyPatch, **given: Any) -> Any:
    """Have the adapter find these backends of ``TASKS``; those of the settings are read at import."""
    handler: Any = type(vars(django_tasks)["task_backends"])(given)
    monkeypatch.setattr(django_tasks, "task_backends", handler)
    return handler


@pytest.mark.parametrize(
    ("backend", "values", "numbers"),
    [
        ({"BACKEND": "django_tasks_db.DatabaseBackend"}, {}, []),
        ({"BACKEND": DUMMY}, {}, [50]),
        ({"BACKEND": "nowhere.Backend"}, {}, [50]),
        ({"BACKEND": IMMEDIATE}, {}, [50]),
        ({"BACKEND": f"{__name__}.InRequest"}, {}, [50]),
        ({"BACKEND": f"{__name__}.DummyBackend"}, {}, []),
        ({"BACKEND": "django_tasks_db.DatabaseBackend"}, {"QUEUE_BACKEND": "code"}, [50]),
        ({"BACKEND": "django_tasks_db.DatabaseBackend"}, {"QUEUE_NAME": "code"}, [50]),
        ({"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": []}, {"QUEUE_NAME": "code"}, []),
    ],
)
def test_tasks_that_no_worker_would_run(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    backend: dict[str, Any],
    values: dict[str, str],
    numbers: list[int],
) -> None:
    """A backend that clones in the web request or never, and one that is not there, are errors."""
    settings.CODEREPOS = {**settings.CODEREPOS, **values}
    backends(monkeypatch, default=backend)

    problems = list(DjangoTasks().problems())

    assert [problem.number for problem in problems] == numbers
    assert all(problem.is_error for problem in problems)


@pytest.mark.parametrize("use_tz", [True, False])
def test_later_task_of_django(settings: Settings, monkeypatch: pytest.MonkeyPatch, use_tz: bool) -> None:
    """A retry is sent with its time as the host's settings want times, and the id of the job alone."""
    settings.USE_TZ = use_tz
    sent = []

    class Task:
        def using(self, **options: Any) -> Task:
            sent.append(options)
            return self

        def enqueue(self, *arguments: Any) -> None:
            sent.append({"arguments": arguments})

    backends(monkeypatch, default={"BACKEND": DUMMY})
    monkeypatch.setattr(django_tasks, "import_string", lambda path: Task())
    when = datetime(2030, 1, 1, tzinfo=UTC)

    assert DjangoTasks().enqueue_at("run_job", KEY, when)

    run_after = next(one["run_after"] for one in sent if "run_after" in one)
    assert timezone.is_aware(run_after) == use_tz
    assert sent[-1] == {"arguments": (str(KEY),)}


def test_backend_that_cannot_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a backend has no times, the upkeep sends the task when it is due."""
    backends(monkeypatch, default={"BACKEND": IMMEDIATE})

    assert DjangoTasks().enqueue_at("run_job", KEY, timezone.now()) is False
    facts = DjangoTasks().facts()
    assert (facts.reachable, facts.waiting) == (None, None)


def test_time_out_of_a_queue_is_told_from_the_end_of_its_worker(app: Any) -> None:
    """A soft limit of Celery's is a time-out; Ctrl-C is none anywhere."""
    assert Celery().is_timeout(SoftTimeLimitExceeded())
    for queue in (Celery(), DjangoTasks()):
        assert not queue.is_timeout(KeyboardInterrupt())
        assert not queue.is_timeout(SystemExit(1))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Celery app with a broker in memory."""
    app = celery_library.Celery("host", broker="memory://", set_as_current=False)
    app.conf.worker_hijack_root_logger = False
    monkeypatch.setattr(celery_queue, "current_app", SimpleNamespace(_get_current_object=lambda: app))
    return app


def test_celery_sends_the_id_alone(app: Any, settings: Settings) -> None:
    """A task has the id of a job and a time limit above that of a clone; one for later has its time, within limits."""
    settings.CODEREPOS = {**settings.CODEREPOS, "QUEUE_NAME": "code", "GIT_CLONE_TIMEOUT": 100}
    queue = Celery()

    queue.enqueue("run_job", KEY)
    assert queue.enqueue_at("run_job", KEY, timezone.now() + timedelta(minutes=9))
    assert queue.enqueue_at("run_job", KEY, timezone.now() + timedelta(minutes=11)) is False

    facts = queue.facts()
    assert (facts.reachable, facts.waiting) == (True, 2)
    with app.connection_for_read() as connection:
        box = connection.SimpleQueue("code")
        first, second = (box.get(timeout=1) for _ in range(2))
    assert first.headers["task"] == "coderepos.tasks.run_job"
    assert first.payload[:2] == [[str(KEY)], {}]
    assert first.headers["timelimit"] == [160, 160]
    assert (first.headers["eta"], bool(second.headers["eta"])) == (None, True)


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ({}, []),
        ({"task_always_eager": True}, [34]),
        ({"worker_pool": "gevent"}, [38]),
        ({"worker_hijack_root_logger": True}, [39]),
    ],
)
def test_configuration_of_celery(app: Any, values: dict[str, Any], numbers: list[int]) -> None:
    """What would clone in the web request, never, or with unmasked logs, is told."""
    app.conf.update(values)

    assert [problem.number for problem in Celery().problems()] == numbers


def test_app_that_was_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Celery falls back to has a broker that nobody chose."""
    fallback = celery_library.Celery("default", fixups=[], set_as_current=False)
    monkeypatch.setattr("celery._state.default_app", fallback)
    monkeypatch.setattr(celery_queue, "current_app", SimpleNamespace(_get_current_object=lambda: fallback))

    (problem,) = Celery().problems()

    assert (problem.number, problem.is_error) == (50, True)


def test_host_that_sets_up_logs_itself(app: Any) -> None:
    """Celery leaves the handlers alone where the host connects to its signal."""
    app.conf.worker_hijack_root_logger = True

    def set_up(**_: Any) -> None:
        """Do nothing."""

    signals.setup_logging.connect(set_up)
    try:
        assert list(Celery().problems()) == []
    finally:
        signals.setup_logging.disconnect(set_up)


def test_green_worker_refuses(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A clone in a process of green threads would stand still with all others; the job waits for another worker."""
    monkeypatch.setattr(tasks, "run_job", lambda job_id: "run")

    assert celery_tasks.run_job(str(KEY)) == "run"
    monkeypatch.setattr(celery_tasks, "detect_environment", lambda: "gevent")
    assert celery_tasks.run_job(str(KEY)) == celery_tasks.REFUSED
    assert "prefork" in caplog.text


@pytest.mark.parametrize(
    ("queue", "arguments", "found"),
    [
        (DjangoTasks, ["manage.py", "db_worker", "--interval", "1"], True),
        (DjangoTasks, ["manage.py", "coderepos_maintain"], False),
        (DjangoTasks, ["gunicorn", "config.wsgi"], False),
        (Celery, ["/srv/venv/bin/celery", "-A", "shop", "worker"], True),
        (Celery, ["/srv/venv/lib/celery/__main__.py", "-A", "shop", "worker", "-c", "4"], True),
        (Celery, ["/srv/venv/bin/celery", "-A", "shop", "beat"], False),
        (Celery, ["manage.py", "worker"], False),
    ],
)
def test_processes_that_hold_keys_beside_other_peoples_bytes(
    monkeypatch: pytest.MonkeyPatch, queue: type[Queue], arguments: list[str], found: bool
) -> None:
    """The processes that run tasks, and those that they are forked from, are known by their command."""
    monkeypatch.setattr(sys, "argv", arguments)

    assert queue().is_cluster() == found


@pytest.mark.parametrize(
    ("debug", "options", "inner", "found"),
    [
        (False, [], False, True),
        (True, [], False, False),
        (True, [], True, True),
        (True, ["--no-reload"], False, True),
        (False, ["--reload"], False, False),
        (False, ["--reload"], True, True),
    ],
)
def test_process_that_only_reloads_keeps_its_environment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, debug: bool, options: list[str], inner: bool, found: bool
) -> None:
    """The keys are in the environment that it hands to the process that works."""
    settings.DEBUG = debug
    monkeypatch.setattr(sys, "argv", ["manage.py", "db_worker", *options])
    if inner:
        monkeypatch.setenv(DJANGO_AUTORELOAD_ENV, "true")

    assert DjangoTasks().is_cluster() == found


@pytest.mark.parametrize("adapter", [celery_tasks, django_tasks_tasks])
def test_every_task_with_an_id_is_one_of_every_queue(adapter: Any) -> None:
    """Each task that is sent with an id is there under the same name for workers of every queue."""
    for name in set(get_args(TaskName)) - set(PERIODIC):
        assert callable(getattr(tasks, name))
        assert hasattr(adapter, name)
