"""What is known about a token, by the database's clock."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db.models.functions import Now
from pytest_django import Settings

from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, TokenStatus
from coderepos.models.database_clock import database_time
from coderepos.projects.models import Project
from tests.support.database import connection

MOMENT = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.fixture
def row(db: None) -> CodeRepository:
    """A repository whose token was not used yet."""
    return CodeRepository.objects.create(
        project=Project.objects.create(name="Rocket"),
        git_url="https://github.com/owner/repo",
        token_ciphertext=Secret("ghp_0123456789"),
    )


def status_of(row: CodeRepository) -> str:
    """Return the status as the API reads it."""
    return CodeRepository.objects.with_token_status().get(pk=row.pk).token_status


@pytest.mark.parametrize(
    ("accepted", "days", "status"),
    [
        (None, None, TokenStatus.UNKNOWN),
        (None, 100, TokenStatus.UNKNOWN),
        (True, None, TokenStatus.OK),
        (True, 14.01, TokenStatus.OK),
        (True, 13.99, TokenStatus.EXPIRING),
        (None, 1, TokenStatus.EXPIRING),
        (True, 0.001, TokenStatus.EXPIRING),
        (True, -0.001, TokenStatus.EXPIRED),
        (False, None, TokenStatus.REFUSED),
        (False, 100, TokenStatus.REFUSED),
        (False, -1, TokenStatus.REFUSED),
    ],
)
def test_status(row: CodeRepository, accepted: bool | None, days: float | None, status: TokenStatus) -> None:
    """A refusal says most, then the end, then the nearness of the end, then that it works."""
    end = None if days is None else Now() + timedelta(days=days)
    CodeRepository.objects.update(token_accepted=accepted, token_expires_at=end)

    assert status_of(row) == status
    lookup: dict[str, Any] = {"token_status": status}
    assert CodeRepository.objects.with_token_status().filter(**lookup).exists()


def test_hosts_word_is_noted(row: CodeRepository) -> None:
    """What the host said is stored; silence about the end keeps what was known."""
    row.record_token_result(accepted=True, expires_at=MOMENT)
    row.record_token_result(accepted=False)

    row.refresh_from_db()
    assert (row.token_accepted, row.token_expires_at) == (False, MOMENT)


def test_word_about_an_old_token_is_not_about_the_new_one(row: CodeRepository) -> None:
    """A job that still used the old token says nothing about the one that replaced it."""
    used = CodeRepository.objects.get(pk=row.pk)
    row.token_ciphertext = Secret("ghp_9876543210")
    row.save()
    used.record_token_result(accepted=False, expires_at=MOMENT)

    row.refresh_from_db()
    assert (row.token_accepted, row.token_expires_at) == (None, None)


def test_rotation_of_the_key_loses_no_note(row: CodeRepository, settings: Settings) -> None:
    """A token whose key is rotated while a clone uses it is the same token, and its refusal counts."""
    used = CodeRepository.objects.get(pk=row.pk)
    old = settings.CODEREPOS["MASTER_ENCRYPTION_KEY"]
    new = base64.b64encode(bytes(range(100, 132))).decode()
    settings.CODEREPOS = {**settings.CODEREPOS, "MASTER_ENCRYPTION_KEY": new, "DECRYPT_ONLY_MASTER_KEYS": [old]}
    call_command("coderepos_rekey", stdout=io.StringIO())
    assert CodeRepository.objects.get(pk=row.pk).token_kid != used.token_kid

    used.record_token_result(accepted=False)

    assert status_of(row) == TokenStatus.REFUSED


@pytest.mark.parametrize(("vendor", "hour"), [("sqlite", 4), ("postgresql", 23)])
def test_hosts_without_time_zones(settings: Settings, monkeypatch: pytest.MonkeyPatch, vendor: str, hour: int) -> None:
    """Without USE_TZ times are naive, as the database's own clock means them."""
    settings.USE_TZ, settings.TIME_ZONE = False, "America/New_York"
    monkeypatch.setattr(connection, "vendor", vendor)

    stored = database_time(MOMENT)

    assert stored is not None
    assert (stored.tzinfo, stored.hour) == (None, hour)
    assert database_time(None) is None
