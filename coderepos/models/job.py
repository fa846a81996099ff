"""Background work on a repository: its owner, its lease, and its outcome.

Our table is the source of truth; the queue only notifies workers. A job belongs to the holder of its lease token, all
times are the database's clock, and every state transition is one conditional UPDATE.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, Self

from django.db import connections, models
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Now

from coderepos.exceptions import AskedToWait, CodeReposError
from coderepos.models.database import PrimaryQuerySet, alias
from coderepos.models.error_columns import error_columns
from coderepos.models.locking import row_transaction
from coderepos.models.repository import CodeRepository

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


MAKE_A_VERSION: Final = (JobKind.CLONE, JobKind.UPDATE)
"""Kinds of jobs that publish a version."""


class JobState(models.TextChoices):
    """State of a job; the last three are final."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


UNFINISHED: Final = (JobState.QUEUED, JobState.RUNNING)


class JobQuerySet(PrimaryQuerySet["Job"]):
    """Reads of jobs, all by the database's clock."""

    def unfinished(self) -> Self:
        """Jobs that are queued or running."""
        return self.filter(state__in=UNFINISHED)

    def due(self) -> Self:
        """Queued jobs whose next attempt is due."""
        return self.filter(Q(next_attempt_at=None) | Q(next_attempt_at__lte=Now()), state=JobState.QUEUED)

    def lease_expired(self) -> Self:
        """Return the running jobs whose lease expired."""
        return self.filter(state=JobState.RUNNING, lease_until__lt=Now())

    def awaiting_enqueue(self) -> Self:
        """Due jobs of which no worker was notified lately."""
        return self.due().filter(
            Q(enqueued_at=None) | Q(enqueued_at__lt=Now() - timedelta(seconds=ENQUEUE_AGAIN_SECONDS)),
        )

    def oldest_due(self) -> Self:
        """Due jobs, the longest waiting first."""
        return self.due().annotate(due_at=Coalesce("next_attempt_at", "created_at")).order_by("due_at", "id")

    def overdue(self) -> Self:
        """Jobs that have been due for longer than :data:`OVERDUE_SECONDS`."""
        return self.oldest_due().filter(due_at__lt=Now() - timedelta(seconds=OVERDUE_SECONDS))

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
        token = lease_token or uuid.uuid4()
        claimed = self.select_related("repository").filter(pk=job_id, state=JobState.RUNNING, lease_token=token)
        free = Q(state=JobState.QUEUED) & (Q(next_attempt_at=None) | Q(next_attempt_at__lte=Now()))
        expired = Q(state=JobState.RUNNING, lease_until__lt=Now())
        claimable = self.filter(free | expired, pk=job_id, attempt__lt=F("max_attempts"))
        with row_transaction(self.db):
            won = claimable.try_lock() and claimable.update(
                state=JobState.RUNNING,
                attempt=F("attempt") + 1,
                lease_token=token,
                lease_until=_in(LEASE_SECONDS),
                heartbeat_at=Now(),
                started_at=Coalesce("started_at", Now()),
                next_attempt_at=None,
                node=node,
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


class Job(models.Model):
    """One piece of background work; its id is the ``task_id`` of the API."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    repository = models.ForeignKey(CodeRepository, on_delete=models.CASCADE, related_name="jobs")
    kind = models.TextField(choices=JobKind.choices, default=JobKind.CLONE)
    state = models.TextField(choices=JobState.choices, default=JobState.QUEUED, db_default=JobState.QUEUED.value)
    attempt = models.PositiveSmallIntegerField(default=0)
    max_attempts = models.PositiveSmallIntegerField(default=4)
    next_attempt_at = models.DateTimeField(null=True)
    lease_token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    enqueued_at = models.DateTimeField(null=True)
    node = models.TextField(default="")
    isolation_level = models.PositiveSmallIntegerField(null=True)
    progress = models.JSONField(default=dict)
    """Phase and figures of the running attempt, in the names of ``git.results.Progress``."""

    result = models.JSONField(default=dict)
    """What the finished job counted: objects, entries, substitutions, seconds per phase."""

    error_code = models.TextField(default="")
    error_message = models.TextField(default="")
    bytes_received = models.PositiveBigIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        db_table = "code_repo_jobs"
        base_manager_name = "objects"
        constraints = [
            models.UniqueConstraint(
                fields=["repository"], condition=Q(state__in=["QUEUED", "RUNNING"]), name="code_repo_jobs_one_open"
            ),
        ]
        indexes = [
            models.Index(fields=["state", "next_attempt_at"], name="code_repo_jobs_due"),
            models.Index(fields=["state", "lease_until"], name="code_repo_jobs_lease"),
            models.Index(fields=["repository", "-created_at"], name="code_repo_jobs_history"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @property
    def attempts_left(self) -> bool:
        """Whether a transient failure may be tried again."""
        return self.attempt < self.max_attempts

    def has_ended(self, state: JobState, *, error_code: str = "") -> bool:
        """Return whether it ended in ``state`` under this very lease: tells after a failed COMMIT whether it won."""
        mine = Job.objects.filter(pk=self.pk, lease_token=self.lease_token)
        return mine.filter(state=state, error_code=error_code).exists()

    def record_enqueued(self) -> None:
        """Record that a worker was notified."""
        Job.objects.filter(pk=self.pk).update(enqueued_at=Now())

    def renew(self, *, progress: Mapping[str, Any] | None = None, bytes_received: int | None = None) -> None:
        """Extend the lease, and write progress if given.

        :raises LeaseLost: the lease is no longer ours.
        """
        values: dict[str, Any] = {} if progress is None else {"progress": dict(progress)}
        if bytes_received is not None:
            values["bytes_received"] = bytes_received
        if not self._owned().update(lease_until=_in(LEASE_SECONDS), heartbeat_at=Now(), **values):
            raise LeaseLost

    def succeed(self, *, repository_values: Mapping[str, Any], **values: Any) -> None:
        """Record RUNNING → SUCCEEDED and the repository COMPLETED, under the lease, in the publishing transaction.

        :raises LeaseLost: the lease is no longer ours; nothing was changed.
        """
        won = self._owned().update(
            state=JobState.SUCCEEDED,
            finished_at=Now(),
            lease_until=None,
            **error_columns(None),
            **values,
        )
        if not won or not self.repository.complete(repository_values):
            raise LeaseLost

    def schedule_retry(self, error: CodeReposError) -> bool:
        """Record RUNNING → QUEUED for an attempt in 60, 120, 240 … s; the repository PENDING if not COMPLETED.

        A Git host that asked to wait longer is granted that.
        """
        at_least_seconds = error.retry_after_seconds if isinstance(error, AskedToWait) else 0
        delay_seconds = max(at_least_seconds, FIRST_RETRY_SECONDS * 2 ** (self.attempt - 1))
        with row_transaction(alias()):
            won = self._owned().update(
                state=JobState.QUEUED,
                next_attempt_at=_in(delay_seconds),
                lease_token=None,
                lease_until=None,
                enqueued_at=None,
                progress={},
                **error_columns(error),
            )
            if won:
                self.repository.wait_for_retry(error)
        return bool(won)

    def fail(self, error: CodeReposError) -> bool:
        """Record RUNNING → FAILED and the repository FAILED unless a version is published; under the lease."""
        with row_transaction(alias()):
            won = self._owned().update(
                state=JobState.FAILED,
                finished_at=Now(),
                lease_until=None,
                **error_columns(error),
            )
            if won:
                self.repository.fail(error)
        return bool(won)

    def expire_lease(self, error: CodeReposError) -> JobState | None:
        """Take a job whose lease expired from its owner: QUEUED again at once, or FAILED if no attempt is left.

        :returns: the new state; ``None`` if the owner came back or has the row locked, or another process was quicker.
        """
        expired = Job.objects.lease_expired().filter(pk=self.pk, lease_token=self.lease_token)
        with row_transaction(alias()):
            if not expired.try_lock():
                return None
            if self.attempts_left:
                if not expired.update(
                    state=JobState.QUEUED, next_attempt_at=Now(), lease_token=None, lease_until=None, enqueued_at=None
                ):
                    return None
                self.repository.wait_for_retry(error)
                return JobState.QUEUED
            if not expired.update(state=JobState.FAILED, finished_at=Now(), lease_until=None, **error_columns(error)):
                return None
            self.repository.fail(error)
            return JobState.FAILED

    def _owned(self) -> JobQuerySet:
        return Job.objects.filter(pk=self.pk, state=JobState.RUNNING, lease_token=self.lease_token)

    def _finish(self, state: JobState) -> None:
        self._owned().update(state=state, finished_at=Now(), lease_until=None)


def _in(seconds: float) -> models.expressions.CombinedExpression:
    return Now() + timedelta(seconds=seconds)
