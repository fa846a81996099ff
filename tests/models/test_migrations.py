"""Migrations of the app run forth and back with data in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from coderepos.crypto.secret import Secret
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Job
from coderepos.projects.models import Project
from tests.support.database import ALIAS

pytestmark = pytest.mark.django_db(transaction=True)

FORMER = {
    "connect_rejected": "rejected",
    "token_replaced": "replaced",
    "token_refused": "refused",
    "token_dropped": "dropped",
}
Migrate = Callable[[str | None], Any]


@pytest.fixture
def migrate(transactional_db: None) -> Iterator[Migrate]:
    """Migrates the app to one of its migrations, or to the last one; returns the models of then."""

    def to(name: str | None) -> Any:
        executor = MigrationExecutor(connections[ALIAS])
        leaves = executor.loader.graph.leaf_nodes("coderepos")
        return executor.migrate([("coderepos", name)] if name else leaves).apps

    yield to
    to(None)


def test_terms_are_renamed_forth_and_back(migrate: Migrate) -> None:
    """No entry of the trail and no time of a job is lost."""
    repository = CodeRepository.objects.create(
        project=Project.objects.create(name="Rocket"), git_url="https://h/r", token_ciphertext=Secret("")
    )
    moment = timezone.now()
    job = Job.objects.create(repository=repository, enqueued_at=moment)
    for event in AuditEvent:
        AuditEntry.objects.record(event, repository=repository, details={"was": event.value})

    old = migrate("0001_initial")

    entries = old.get_model("coderepos", "AuditEntry").objects.using(ALIAS)
    assert {entry.details["was"]: entry.event for entry in entries.all()} == {
        event.value: FORMER.get(event.value, event.value) for event in AuditEvent
    }
    assert old.get_model("coderepos", "Job").objects.using(ALIAS).get(pk=job.pk).rung_at == moment
    for former in FORMER.values():
        entries.create(event=former, details={"was": former})

    migrate(None)

    assert Job.objects.get(pk=job.pk).enqueued_at == moment
    renamed = {was: now for now, was in FORMER.items()}
    for entry in AuditEntry.objects.all():
        assert entry.event == renamed.get(entry.details["was"], entry.details["was"])
    assert AuditEntry.objects.count() == len(AuditEvent) + len(FORMER)


def test_jobs_that_wait_take_the_turn_of_their_project(migrate: Migrate) -> None:
    """What was queued before there were turns is fair too."""
    jobs = {}
    for name in ("Rocket", "Engine"):
        project = Project.objects.create(name=name)
        repository = CodeRepository.objects.create(project=project, git_url="https://h/r", token_ciphertext=Secret(""))
        jobs[Job.objects.create(repository=repository).pk] = str(project.pk)

    migrate("0005_disk")
    migrate(None)

    assert dict(Job.objects.values_list("pk", "flow")) == jobs
