"""The audit trail is added to, and never changed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone

from coderepos.crypto.secret import Secret
from coderepos.models import AuditEntry, AuditEvent, CodeRepository
from coderepos.projects.models import Project
from tests.support.database import ALIAS

pytestmark = pytest.mark.django_db


@pytest.fixture
def repository() -> CodeRepository:
    """A connected repository."""
    return CodeRepository.objects.create(
        project=Project.objects.create(name="Rocket"),
        git_url="https://github.com/owner/repo",
        token_ciphertext=Secret("ghp_0123456789"),
    )


@pytest.fixture
def entry(repository: CodeRepository) -> AuditEntry:
    """An entry about it."""
    user = User.objects.create_user("dora")
    return AuditEntry.objects.record(AuditEvent.TOKEN_REPLACED, repository=repository, actor=user, details={"a": 1})


def test_entry_holds_values(repository: CodeRepository, entry: AuditEntry) -> None:
    """Who, what, where and when, by the database's clock."""
    entry = AuditEntry.objects.get(pk=entry.pk)

    assert (entry.event, entry.actor_name, entry.repository_id) == ("token_replaced", "dora", repository.pk)
    assert entry.actor_id == str(User.objects.get().pk)
    assert entry.project_id == str(repository.project_id)
    assert (entry.job_id, entry.details) == (None, {"a": 1})
    assert abs(timezone.now() - entry.created_at) < timedelta(minutes=1)
    assert str(entry) == f"token_replaced {entry.pk}"


def test_entry_without_anybody() -> None:
    """What a command does has no user and no repository."""
    entry = AuditEntry.objects.record(AuditEvent.REKEYED, details={"moved": 3})

    assert (entry.actor_id, entry.actor_name, entry.project_id, entry.repository_id) == ("", "", "", None)


def test_entry_outlives_everything(repository: CodeRepository, entry: AuditEntry) -> None:
    """Repository, project and user may go; the entry stays as it was."""
    Project.objects.all().delete()
    User.objects.all().delete()

    assert not CodeRepository.objects.exists()
    kept = AuditEntry.objects.get(pk=entry.pk)
    assert (kept.repository_id, kept.actor_name) == (repository.pk, "dora")
    assert AuditEntry.objects.get(event=AuditEvent.DISCONNECTED).repository_id == repository.pk


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.save(),
        lambda entry: entry.save(update_fields=["event"]),
        lambda entry: entry.save(force_update=True),
        lambda entry: entry.delete(),
        lambda entry: AuditEntry.objects.update(event="connected"),
        lambda entry: AuditEntry.objects.filter(pk=entry.pk).update(event="connected"),
        lambda entry: AuditEntry.objects.all().delete(),
        lambda entry: AuditEntry.objects.filter(pk=entry.pk).delete(),
        lambda entry: AuditEntry.objects.bulk_update([entry], ["event"]),
        lambda entry: AuditEntry.objects.bulk_create(
            [entry], update_conflicts=True, unique_fields=["id"], update_fields=["event"]
        ),
        lambda entry: AuditEntry._base_manager.update(event="connected"),
        lambda entry: AuditEntry._base_manager.all().delete(),
        lambda entry: AuditEntry._default_manager.filter(pk=entry.pk).update(event="connected"),
        lambda entry: AuditEntry.objects.update_or_create(pk=entry.pk, defaults={"event": "connected"}),
        lambda entry: asyncio.run(AuditEntry.objects.aupdate(event="connected")),
        lambda entry: asyncio.run(AuditEntry.objects.all().adelete()),
    ],
)
def test_nothing_is_changed_or_deleted(entry: AuditEntry, change: Callable[[AuditEntry], object]) -> None:
    """Every way of the ORM to change or delete a stored entry is refused."""
    entry.event = "connected"
    with pytest.raises(TypeError, match="added to"):
        change(entry)

    assert AuditEntry.objects.get().event == "token_replaced"


def test_entry_with_the_number_of_another_is_refused(entry: AuditEntry) -> None:
    """An entry made by hand never takes the place of a stored one."""
    with pytest.raises(IntegrityError), transaction.atomic(using=ALIAS):
        AuditEntry(pk=entry.pk, event="connected").save()

    assert AuditEntry.objects.get().event == "token_replaced"


def test_many_may_be_added_at_once() -> None:
    """Adding in bulk changes nothing that is there."""
    AuditEntry.objects.bulk_create([AuditEntry(event="connected"), AuditEntry(event="connect_rejected")])

    assert AuditEntry.objects.count() == 2


def test_newest_first() -> None:
    """Pages have a stable order."""
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    made = [
        AuditEntry.objects.create(event="connected", created_at=moment, repository_id=uuid.uuid4()) for _ in range(3)
    ]

    assert list(AuditEntry.objects.newest_first()) == made[::-1]
