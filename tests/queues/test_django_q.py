"""Workers of django-q2 are notified on commit, with an id and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule
from django_q.signals import post_spawn
from model_bakery import baker
from pytest_django import Settings

from coderepos import queues, services
from coderepos.crypto import process
from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Job
from coderepos.projects.models import Project
from coderepos.queues import django_q
from tests.support.database import ALIAS

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def job() -> Job:
    """A queued clone."""
    repository = baker.make(
        CodeRepository, project=baker.make(Project), git_url="https://h/r", token_ciphertext=Secret("t" * 30)
    )
    return Job.objects.create(repository=repository)


def enqueued() -> list[dict[str, Any]]:
    """Return what waits in the queue, unpacked."""
    return [row.task for row in OrmQ.objects.all()]


def test_job_is_enqueued_on_commit_with_the_id_alone(job: Job) -> None:
    """Nothing is sent before the commit; then one task with the job's id and no other value."""
    with transaction.atomic(using=ALIAS):
        queues.enqueue(job)
        assert enqueued() == []

    (task,) = enqueued()
    assert (task["func"], task["args"], task.get("kwargs")) == ("coderepos.tasks.run_job", (str(job.pk),), {})
    job.refresh_from_db()
    assert job.enqueued_at is not None


def test_rolled_back_job_is_not_enqueued(job: Job) -> None:
    """A transaction that is rolled back sends nothing."""
    with transaction.atomic(using=ALIAS):
        queues.enqueue(job)
        transaction.set_rollback(True, using=ALIAS)

    assert enqueued() == []


def test_broken_queue_does_not_break_the_request(job: Job, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A queue that is down leaves a job that the reaper finds, and says so in the log."""

    def down(*arguments: object, **options: object) -> None:
        raise ConnectionError("the broker is down")

    monkeypatch.setattr(django_q, "async_task", down)
    with transaction.atomic(using=ALIAS):
        queues.enqueue(job)

    assert list(Job.objects.awaiting_enqueue()) == [job]
    assert "the broker is down" in caplog.text


def test_enqueue_at_makes_a_schedule_that_runs_once(job: Job) -> None:
    """A retry is scheduled at its time, with the job's id alone."""
    when = datetime.now(UTC) + timedelta(seconds=60)

    queues.enqueue_at(job, when)

    schedule = Schedule.objects.get(func="coderepos.tasks.run_job")
    assert (schedule.schedule_type, schedule.next_run, str(job.pk) in schedule.args) == (Schedule.ONCE, when, True)


def test_schedules_are_made_once() -> None:
    """Migrating again neither doubles the schedules nor takes back what an operator changed."""
    queues.ensure_periodic()
    Schedule.objects.filter(name="coderepos.reap").update(minutes=5)
    queues.ensure_periodic()

    assert {row.name: row.minutes for row in Schedule.objects.filter(name__startswith="coderepos.")} == {
        "coderepos.reap": 5,
        "coderepos.sweep": 60,
    }


def test_cluster_of_its_own(job: Job, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notifications, retries and schedules go to the cluster that works for the app, whose workers alone keep it up."""
    started = []
    monkeypatch.setattr(services.worker, "start_worker", lambda: started.append(Conf.CLUSTER_NAME))
    monkeypatch.setattr(process, "close_process", lambda: None)
    monkeypatch.setattr(django_q, "parent_process", lambda: "the guard of the cluster")
    settings.CODEREPOS = {**settings.CODEREPOS, "QUEUE_CLUSTER": "code"}
    with transaction.atomic(using=ALIAS):
        queues.enqueue(job)
    queues.enqueue_at(job, datetime.now(UTC))
    queues.ensure_periodic()
    for name in ("host", "code"):
        monkeypatch.setattr(Conf, "CLUSTER_NAME", name)
        post_spawn.send(sender="django_q")

    assert set(OrmQ.objects.values_list("key", flat=True)) == {"code"}
    assert queues.current().facts().waiting == 1
    assert set(Schedule.objects.values_list("cluster", flat=True)) == {"code"}
    assert started == ["code"]


def test_failures_are_acknowledged_whatever_the_host_does(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of ours that fails is not delivered again; the job in our table says what happens next."""
    monkeypatch.setattr(Conf, "ACK_FAILURES", False)
    with transaction.atomic(using=ALIAS):
        queues.enqueue(job)

    (task,) = enqueued()
    assert task["ack_failure"] is True


def test_facts_tell_what_waits_and_which_schedules_are_missing(job: Job) -> None:
    """Health asks the queue how much waits, and whether an operator removed a schedule."""
    Schedule.objects.all().delete()
    queues.ensure_periodic()
    Schedule.objects.filter(name="coderepos.sweep").delete()
    with transaction.atomic(using=ALIAS):
        queues.enqueue(job)

    facts = queues.current().facts()

    assert (facts.reachable, facts.waiting, facts.missing_periodic) == (True, 1, ("sweep",))


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"host": "127.0.0.1"}, 5),
        ({"host": "127.0.0.1", "socket_timeout": 9}, 9),
        ("redis://127.0.0.1/0", 5),
        ("redis://127.0.0.1/0?socket_timeout=9", 9),
    ],
)
def test_redis_gets_a_time_out_unless_the_host_gave_one(
    monkeypatch: pytest.MonkeyPatch, given: Any, seconds: float
) -> None:
    """A Redis that hangs is given up soon, in whichever form the host names it."""
    monkeypatch.setattr(Conf, "ORM", None)
    monkeypatch.setattr(Conf, "REDIS", given)

    options = django_q._broker().connection.connection_pool.connection_kwargs

    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (seconds, 5)
