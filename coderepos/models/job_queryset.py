"""Queries of jobs, all by the database's clock, and the claim by which a worker becomes the owner of one."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from django.db import connections
from django.db.models import F, Q, QuerySet
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Coalesce, Now

from coderepos.models.database import PrimaryQuerySet
from coderepos.models.job_states import (
    ENQUEUE_AGAIN_SECONDS,
    LEASE_SECONDS,
    MAKE_A_VERSION,
    OVERDUE_SECONDS,
    UNFINISHED,
    JobState,
)
from coderepos.models.locking import row_transaction

if TYPE_CHECKING:
    from coderepos.models.job import Job

_QUEUED: Final = Q(state=JobState.QUEUED) & (Q(next_attempt_at=None) | Q(next_attempt_at__lte=Now()))
_EXPIRED: Final = Q(state=JobState.RUNNING, lease_until__lt=Now())


class JobQuerySet(PrimaryQuerySet["Job"]):
    """Reads of jobs, all by the database's clock."""

    def unfinished(self) -> Self:
        """Jobs that are queued or running."""
        return self.filter(state__in=UNFINISHED)

    def due(self) -> Self:
        """Queued jobs whose next attempt is due."""
        return self.filter(Q(next_attempt_at=None) | Q(next_attempt_at__lte=Now()), state=JobState.QUEUED)

    def lease_expired(self, *, for_seconds: float = 0) -> Self:
        """Return the running jobs whose lease expired, at least ``for_seconds`` ago."""
        return self.filter(state=JobState.RUNNING, lease_until__lt=Now() - timedelta(seconds=for_seconds))

    def awaiting_enqueue(self) -> Self:
        """Due jobs of which no worker was notified lately."""
        return self.due().filter(
            Q(enqueued_at=None) | Q(enqueued_at__lt=Now() - timedelta(seconds=ENQUEUE_AGAIN_SECONDS)),
        )

    def with_due_at(self) -> Self:
        """Annotate when each job is, or was, due: ``due_at``, as the index of the queue has it."""
        return self.annotate(due_at=Coalesce("next_attempt_at", "created_at"))

    def first_due_at(self) -> QuerySet[Any, Any]:
        """Return when the first of these jobs is due, as a subquery."""
        return self.annotate(due_at=Coalesce("next_attempt_at", "created_at")).order_by("due_at").values("due_at")[:1]

    def oldest_due(self) -> Self:
        """Due jobs, the longest waiting first; among those of one flow that is their order."""
        return self.with_due_at().filter(state=JobState.QUEUED, due_at__lte=Now()).order_by("due_at", "id")

    def overdue(self, *, after_seconds: float = OVERDUE_SECONDS) -> Self:
        """Jobs that have been due for longer than ``after_seconds``."""
        return self.oldest_due().filter(due_at__lt=Now() - timedelta(seconds=after_seconds))

    def with_recent_heartbeat(self, *, within_seconds: float = LEASE_SECONDS) -> Self:
        """Jobs in any state that a worker reported on lately."""
        return self.filter(heartbeat_at__gte=Now() - timedelta(seconds=within_seconds))

    def newest_first(self) -> Self:
        """Order by creation; the id breaks ties, which keeps pages stable."""
        return self.order_by("-created_at", "id")

    def claim(self, job_id: uuid.UUID, *, node: str, lease_token: uuid.UUID | None = None) -> Job | None:
        """Claim the job if it is due or its lease expired, and return it with a new lease.

        A row that another transaction has locked is skipped: nobody waits for a frozen process.

        :param lease_token: name of the new lease. Call again with the same one after a database error, when it is not
            known whether the claim was committed, to get the job that was claimed then.
        :returns: ``None`` if another worker owns it, or it is finished, not due, out of attempts, or deleted.
        """
        return self._claim(job_id, _QUEUED | _EXPIRED, node=node, lease_token=lease_token)

    def take_over(self, job_id: uuid.UUID, *, node: str, lease_token: uuid.UUID) -> Job | None:
        """Claim a job whose lease expired, as :meth:`claim` does; one that is queued stays so."""
        return self._claim(job_id, _EXPIRED, node=node, lease_token=lease_token)

    def running_under(self, lease_token: uuid.UUID) -> Job | None:
        """Return the job that was claimed with this token, if it is still running."""
        return self.select_related("repository").filter(state=JobState.RUNNING, lease_token=lease_token).first()

    def _claim(self, job_id: uuid.UUID, wanted: Q, *, node: str, lease_token: uuid.UUID | None) -> Job | None:
        token = lease_token or uuid.uuid4()
        claimed = self.select_related("repository").filter(pk=job_id, state=JobState.RUNNING, lease_token=token)
        claimable = self.filter(wanted, pk=job_id, attempt__lt=F("max_attempts"))
        with row_transaction(self.db):
            won = claimable.try_lock() and claimable.update(
                state=JobState.RUNNING,
                attempt=F("attempt") + 1,
                lease_token=token,
                lease_until=seconds_from_now(LEASE_SECONDS),
                heartbeat_at=Now(),
                started_at=Coalesce("started_at", Now()),
                next_attempt_at=None,
                node=node,
                reserved_bytes=0,
                progress={},
            )
            if not won:
                return claimed.first() if lease_token else None
            job = claimed.get()
            if job.kind in MAKE_A_VERSION and not job.repository.begin_cloning():
                job._finish(JobState.CANCELLED)
                return None
        return job

    def try_lock(self) -> bool:
        """Lock these jobs and their repositories until the end of the transaction, skipping those already locked.

        :returns: whether any row was locked; always true on a database without row locks, such as SQLite, where one
            transaction writes at a time.
        """
        if not connections[self.db].features.has_select_for_update_skip_locked:
            return True
        rows = self.select_related("repository").defer("repository__token_ciphertext")
        return bool(rows.select_for_update(skip_locked=True, of=("self", "repository")))


def seconds_from_now(seconds: float) -> CombinedExpression:
    """Return a time of the database's clock."""
    return Now() + timedelta(seconds=seconds)
