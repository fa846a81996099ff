"""Times of the database's clock, which sets all of ours."""

from __future__ import annotations

from datetime import UTC, datetime

from django.conf import settings
from django.utils import timezone

from coderepos.models.database import vendor


def database_now() -> datetime:
    """Return the present time as the database's clock would write it, to compare with times that it wrote."""
    now = database_time(datetime.now(UTC))
    assert now is not None  # noqa: S101  what goes in comes out
    return now


def database_time(moment: datetime | None) -> datetime | None:
    """Return an aware time as the database stores it: without USE_TZ naive, in the zone of the database's own clock."""
    if moment is None or settings.USE_TZ:
        return moment
    zone = UTC if vendor() == "sqlite" else timezone.get_default_timezone()
    return moment.astimezone(zone).replace(tzinfo=None)


def utc_text(value: datetime) -> str:
    """Return a time of the database as UTC in whole seconds, such as ``2024-01-15T10:30:00Z``."""
    if timezone.is_naive(value):
        # Without USE_TZ naive times are in TIME_ZONE, but SQLite's clock, which sets all of ours, is always UTC.
        zone = UTC if vendor() == "sqlite" else timezone.get_default_timezone()
        value = value.replace(tzinfo=zone)
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
