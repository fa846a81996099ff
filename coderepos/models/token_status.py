"""Whether a stored token still works, as far as its Git host has reported."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Protocol

from django.db import models
from django.db.models import Case, Q, Value, When
from django.db.models.functions import Now

EXPIRING_DAYS: Final = 14
"""A token is called expiring this many days before its end."""


class TokenStatus(models.TextChoices):
    """What is known about the token of a repository."""

    NONE = "none"
    """There is none: the repository is public, or its token was dropped."""

    OK = "ok"
    """The Git host accepted it the last time."""

    EXPIRING = "expiring"
    EXPIRED = "expired"
    REFUSED = "refused"
    """The Git host refused it the last time it was used."""

    UNKNOWN = "unknown"
    """It has not been used yet."""


class TokenRow(Protocol):
    """The columns that say what is known about a token."""

    has_token: bool
    token_accepted: bool | None
    token_expires_at: datetime | None


def token_status() -> Case:
    """Return the status of a row's token, by the database's clock."""
    return Case(
        When(has_token=False, then=Value(TokenStatus.NONE.value)),
        When(token_accepted=False, then=Value(TokenStatus.REFUSED.value)),
        When(token_expires_at__lte=Now(), then=Value(TokenStatus.EXPIRED.value)),
        When(token_expires_at__lte=Now() + timedelta(days=EXPIRING_DAYS), then=Value(TokenStatus.EXPIRING.value)),
        When(token_accepted=True, then=Value(TokenStatus.OK.value)),
        default=Value(TokenStatus.UNKNOWN.value),
        output_field=models.TextField(),
    )


def has_token_status(status: TokenStatus) -> Q:
    """Return the condition that a row's token has this status, in columns that an index knows."""
    accepted = Q(has_token=True, token_accepted=True)
    unused = Q(has_token=True, token_accepted=None)
    soon = Now() + timedelta(days=EXPIRING_DAYS)
    later = Q(token_expires_at=None) | Q(token_expires_at__gt=soon)
    match status:
        case TokenStatus.NONE:
            return Q(has_token=False)
        case TokenStatus.REFUSED:
            return Q(has_token=True, token_accepted=False)
        case TokenStatus.EXPIRED:
            return (accepted | unused) & Q(token_expires_at__lte=Now())
        case TokenStatus.EXPIRING:
            return (accepted | unused) & Q(token_expires_at__gt=Now(), token_expires_at__lte=soon)
        case TokenStatus.OK:
            return accepted & later
        case _:
            return unused & later


def token_status_at(row: TokenRow, now: datetime) -> TokenStatus:
    """Return the status of a token at ``now``, a time that was read along with its row."""
    ends_at = row.token_expires_at
    if not row.has_token:
        return TokenStatus.NONE
    if row.token_accepted is False:
        return TokenStatus.REFUSED
    if ends_at is not None and ends_at <= now:
        return TokenStatus.EXPIRED
    if ends_at is not None and ends_at <= now + timedelta(days=EXPIRING_DAYS):
        return TokenStatus.EXPIRING
    return TokenStatus.OK if row.token_accepted else TokenStatus.UNKNOWN
