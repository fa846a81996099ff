"""Readers get the path of a clone, and their use is recorded for next to nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.db.models.functions import Now
from model_bakery import baker

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.exceptions import InvalidState, NotFound
from coderepos.models import CloneStatus, CodeRepository, get_project_model
from coderepos.services.repositories import reading
from tests.support.database import ALIAS

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def repository() -> CodeRepository:
    """A repository that was cloned two hours ago."""
    made: CodeRepository = baker.make(
        CodeRepository,
        project=baker.make(get_project_model()),
        git_url=f"https://h/{uuid.uuid4()}",
        token_ciphertext=Secret(""),
        clone_status=CloneStatus.COMPLETED,
        sandbox_path="/srv/repos/p/r/repository",
    )
    CodeRepository.objects.update(last_used_at=Now() - timedelta(hours=2))
    made.refresh_from_db()
    return made


def was_recorded(repository: CodeRepository) -> bool:
    """Return whether another use was recorded than the one that the row was loaded with."""
    return CodeRepository.objects.get().last_used_at != repository.last_used_at


def test_use_is_recorded_once_an_hour(
    repository: CodeRepository, django_assert_num_queries: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process asks once in ten minutes, and a row is written once an hour, whoever asks."""
    assert services.open_clone(repository) == Path("/srv/repos/p/r/repository")
    assert was_recorded(repository)
    with django_assert_num_queries(1):
        services.open_clone(repository)

    repository.refresh_from_db()
    monkeypatch.setattr(reading, "_recorded", reading._Recorded())
    services.open_clone(repository)
    assert not was_recorded(repository)


def test_clone_that_was_never_used_is_recorded(repository: CodeRepository) -> None:
    """As it is for rows from before uses were recorded."""
    CodeRepository.objects.update(last_used_at=None)
    services.open_clone(repository)
    assert CodeRepository.objects.get().last_used_at is not None


def test_reader_in_a_transaction_locks_nothing(repository: CodeRepository) -> None:
    """Its use is recorded with its commit, and not at all if it is rolled back."""
    with transaction.atomic(using=ALIAS):
        services.open_clone(repository)
        transaction.set_rollback(True, using=ALIAS)
    assert not was_recorded(repository)
    with transaction.atomic(using=ALIAS):
        services.open_clone(repository)
        assert not was_recorded(repository)
    assert was_recorded(repository)


def test_failing_note_takes_no_reader_its_clone(
    repository: CodeRepository, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that is locked for long costs a line in the log."""

    def held(*_: Any, **__: Any) -> Any:
        raise OperationalError("canceling statement due to lock timeout")

    monkeypatch.setattr(type(CodeRepository.objects.all()), "update", held)

    assert services.open_clone(repository).name == "repository"
    assert "use can't be recorded" in caplog.text


@pytest.mark.parametrize("status", [one for one in CloneStatus if one != CloneStatus.COMPLETED])
def test_what_is_not_there_is_not_opened(repository: CodeRepository, status: CloneStatus) -> None:
    """Every other state says that there is nothing to read."""
    CodeRepository.objects.update(clone_status=status)

    with pytest.raises(InvalidState, match=status):
        services.open_clone(repository)


def test_deleted_repository_is_not_found(repository: CodeRepository) -> None:
    """Also for a process that opened it a moment ago."""
    services.open_clone(repository)
    CodeRepository.objects.all().delete()

    with pytest.raises(NotFound):
        services.open_clone(repository)


def test_process_remembers_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one recorded longest ago is forgotten."""
    monkeypatch.setattr(reading, "_REMEMBERED", 2)
    recorded, ids = reading._Recorded(), [uuid.uuid4() for _ in range(3)]
    for one in ids:
        recorded.add(one)

    assert [recorded.has(one) for one in ids] == [False, True, True]
