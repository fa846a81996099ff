"""What a probe or clone reports to its caller; never sent to a child."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from coderepos.git.wire import BuildReport

EXPIRY: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d)\Z", re.ASCII)
EXPIRY_YEARS: Final = range(2000, 2200)
"""Years in which a token may plausibly expire; a time in any other year is ignored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a probe or clone has come."""

    phase: str
    """``connecting``, ``receiving``, ``resolving``, ``writing`` or ``publishing``."""

    received_bytes: int = 0
    objects: int = 0
    total_objects: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CloneReport:
    """What one successful clone attempt wrote to its ``.incoming-*`` directory."""

    build: BuildReport
    ref_name: str
    head_branch: str
    received_bytes: int
    isolation_level: int
    isolation: dict[str, Any]
    """The confinement that each child reports."""

    token_expires_at: datetime | None = None
    """When the token expires, in UTC, if the host says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeReport:
    """What a probe counted."""

    pack_bytes: int
    estimated_bytes: int
    """The count times :data:`~coderepos.git.limits.SIZE_FACTOR`, or the size by the platform if that is larger.

    If the whole history was counted, the count alone.
    """

    size_source: str
    """``probe``, ``platform``, or ``full_fetch`` if the whole history was counted."""

    stopped_early: bool
    """Whether the count exceeded the limit, so that the true size is at least the estimate."""

    ref_name: str
    head_branch: str
    wanted_id: str
    token_expires_at: datetime | None = None
    """When the token expires, in UTC, if the host says so."""


def token_expiry(outcome: Mapping[str, Any]) -> datetime | None:
    """Return when the token expires, in UTC, by an ``outcome`` event, or ``None`` if that is unknown or implausible.

    A server may claim any year, so one outside of :data:`EXPIRY_YEARS` is not the child's fault.

    :raises ValueError: the value is not an ISO 8601 time with an offset.
    """
    value = outcome.get("token_expires_at")
    if value is None:
        return None
    if not isinstance(value, str) or not EXPIRY.match(value):
        raise ValueError("token_expires_at")
    moment = datetime.fromisoformat(value)
    return moment.astimezone(UTC) if moment.year in EXPIRY_YEARS else None
