"""What a look at the database makes of due jobs."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.db import connections
from django.db.models.functions import Now
from model_bakery import baker

from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Flow, Job, JobState, NodeState, get_project_model
from coderepos.services.disk.this_machine import register_node
from coderepos.supervision.look import DUE_SECONDS, Look, Seen


def make_job(flow: str, **values: object) -> Job:
    """Store a job of a flow, and let that know."""
    repository = baker.make(
        CodeRepository, project=baker.make(get_project_model()), git_url="https://h/r", token_ciphertext=Secret("")
    )
    job = Job.objects.create(repository=repository, flow=flow)
    Flow.objects.join(job)
    Job.objects.filter(pk=job.pk).update(**values)
    return job


def seen() -> Seen:
    """Return what a look saw, from a process of its own."""
    connections.close_all()  # as in a supervisor, which has none
    look = Look()
    deadline = time.monotonic() + 30
    while (found := look.seen()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.django_db(transaction=True)
def test_only_jobs_that_any_worker_could_claim_count() -> None:
    """One that waits for others of its flow is due, and no sign that workers do not work."""
    assert seen() == Seen.NOTHING_DUE
    make_job("a", created_at=Now() - timedelta(seconds=DUE_SECONDS / 2))
    assert seen() == Seen.NOTHING_DUE

    make_job("b", created_at=Now() - timedelta(seconds=DUE_SECONDS * 2))
    assert seen() == Seen.CLAIMABLE

    make_job("b", state=JobState.RUNNING)
    Flow.objects.filter(key="b").update(slots=1)
    assert seen() == Seen.DUE


@pytest.mark.django_db(transaction=True)
def test_drained_machine_has_nothing_due() -> None:
    """Its workers leave due jobs to others on purpose, which is no reason to end them."""
    make_job("a", created_at=Now() - timedelta(seconds=DUE_SECONDS * 2))
    register_node().set_state(NodeState.DRAINING)
    assert seen() == Seen.NOTHING_DUE
