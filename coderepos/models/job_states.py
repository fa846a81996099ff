"""States and kinds of jobs, and the times that bound them."""

from __future__ import annotations

from typing import Final

from django.db import models

LEASE_SECONDS: Final = 60
"""How long a job stays with a worker that does not renew its lease. With a round of upkeep every ten seconds, and one
notification lost with a dying cluster, another worker has it well within 90 s."""

FIRST_RETRY_SECONDS: Final = 60
ENQUEUE_AGAIN_SECONDS: Final = 8
"""How long a notification may take to reach a worker; less than a round of upkeep, so that each round looks again."""

OVERDUE_SECONDS: Final = 120
"""A job that has been due for this long while no other runs shows that no worker is at work."""


class LeaseLost(Exception):
    """Another worker owns the job now, or it was cancelled: discard whatever was built."""


class JobKind(models.TextChoices):
    """Kind of work that a job does."""

    CLONE = "CLONE"
    UPDATE = "UPDATE"
    CLEAN = "CLEAN"
    RESTORE = "RESTORE"


MAKE_A_VERSION: Final = (JobKind.CLONE, JobKind.UPDATE, JobKind.RESTORE)
"""Kinds of jobs that publish a version."""


class JobState(models.TextChoices):
    """State of a job; the last three are final."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


UNFINISHED: Final = (JobState.QUEUED, JobState.RUNNING)
