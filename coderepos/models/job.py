"""Background work on a repository: its owner, its lease, and its outcome.

Our table is the source of truth; the queue only notifies workers. A job belongs to the holder of its lease token, all
times are the database's clock, and every state transition is one conditional UPDATE.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Now

from coderepos.exceptions import AskedToWait, CodeReposError
from coderepos.models.database import alias
from coderepos.models.error_columns import error_columns
from coderepos.models.job_queryset import JobQuerySet, seconds_from_now
from coderepos.models.job_states import FIRST_RETRY_SECONDS, LEASE_SECONDS, JobKind, JobState, LeaseLost
from coderepos.models.locking import row_transaction
from coderepos.models.repository import CodeRepository


class Job(models.Model):
    """One piece of background work; its id is the ``task_id`` of the API."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    repository = models.ForeignKey(CodeRepository, on_delete=models.CASCADE, related_name="jobs")
    kind = models.TextField(choices=JobKind.choices, default=JobKind.CLONE)
    state = models.TextField(choices=JobState.choices, default=JobState.QUEUED, db_default=JobState.QUEUED.value)
    flow = models.TextField(default="", db_default="")
    """Whose turn it takes, a key of :class:`~coderepos.models.flow.Flow`; the project where it is not given."""

    attempt = models.PositiveSmallIntegerField(default=0)
    max_attempts = models.PositiveSmallIntegerField(default=4)
    slow_attempts = models.PositiveSmallIntegerField(default=0, db_default=0)
    """Attempts that took too long, which :attr:`~coderepos.exceptions.CodeReposError.most_retries` bounds."""

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
    reserved_bytes = models.PositiveBigIntegerField(default=0, db_default=0, editable=False)
    """Room on the machine's disk that the running attempt holds; its children may write no more."""

    needed_bytes = models.PositiveBigIntegerField(null=True, editable=False)
    """Room that an attempt did not get, where the job waits for it."""

    waits_for_disk_since = models.DateTimeField(null=True, editable=False)
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
            models.Index(
                fields=["waits_for_disk_since", "id"],
                condition=Q(waits_for_disk_since__isnull=False),
                name="code_repo_jobs_disk_wait",
            ),
            models.Index(
                F("flow"),
                Coalesce("next_attempt_at", "created_at"),
                F("id"),
                condition=Q(state="QUEUED"),
                name="code_repo_jobs_turn",
            ),
            models.Index(fields=["flow"], condition=Q(state="RUNNING"), name="code_repo_jobs_running"),
            models.Index(
                Coalesce("next_attempt_at", "created_at"),
                "id",
                condition=Q(state=JobState.QUEUED.value),
                name="code_repo_jobs_oldest_due",
            ),
            models.Index(fields=["heartbeat_at"], name="code_repo_jobs_heartbeat"),
            models.Index(fields=["-created_at", "id"], name="code_repo_jobs_created"),
            models.Index(fields=["state", "-created_at"], name="code_repo_jobs_state"),
            models.Index(fields=["node", "-created_at"], name="code_repo_jobs_node"),
            models.Index(
                fields=["error_code", "-created_at"], condition=~Q(error_code=""), name="code_repo_jobs_error"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    def save(self, **options: Any) -> None:
        """Save; a new job without a flow takes the turn of its project."""
        if self._state.adding and not self.flow:
            self.flow = str(self.repository.project_id)
        super().save(**options)

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

    def is_owned(self) -> bool:
        """Return whether the lease is still ours: no other worker has it, and the job was not cancelled."""
        return self._owned().exists()

    def renew(self, *, progress: Mapping[str, Any] | None = None, bytes_received: int | None = None) -> None:
        """Extend the lease, and write progress if given.

        :raises LeaseLost: the lease is no longer ours.
        """
        values: dict[str, Any] = {} if progress is None else {"progress": dict(progress)}
        if bytes_received is not None:
            values["bytes_received"] = bytes_received
        if not self._owned().update(lease_until=seconds_from_now(LEASE_SECONDS), heartbeat_at=Now(), **values):
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

        A Git host that asked to wait longer is granted that. Failures of which a job may have only so many are counted.
        """
        slow_attempts = F("slow_attempts") + int(error.most_retries is not None)
        at_least_seconds = error.retry_after_seconds if isinstance(error, AskedToWait) else 0
        delay_seconds = max(at_least_seconds, FIRST_RETRY_SECONDS * 2 ** (self.attempt - 1))
        with row_transaction(alias()):
            won = self._owned().update(
                state=JobState.QUEUED,
                next_attempt_at=seconds_from_now(delay_seconds),
                lease_token=None,
                lease_until=None,
                slow_attempts=slow_attempts,
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

    def cancel(self, error: CodeReposError) -> bool:
        """Record QUEUED or RUNNING → CANCELLED, and the repository FAILED unless a version is published.

        A worker that owns it finds its lease gone, and discards what it built.
        """
        with row_transaction(alias()):
            won = (
                Job.objects.unfinished()
                .filter(pk=self.pk)
                .update(
                    state=JobState.CANCELLED,
                    finished_at=Now(),
                    lease_until=None,
                    next_attempt_at=None,
                    **error_columns(error),
                )
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
            return self._leave(expired, error) if expired.try_lock() else None

    def give_back(self, error: CodeReposError) -> JobState | None:
        """Give the job up as its owner: QUEUED again at once, or FAILED if no attempt is left.

        :returns: the new state; ``None`` if the lease is no longer ours.
        """
        with row_transaction(alias()):
            return self._leave(self._owned(), error)

    def _leave(self, held: JobQuerySet, error: CodeReposError) -> JobState | None:
        """End the lease of the job that ``held`` finds, inside a transaction; the attempt counts."""
        if self.attempts_left:
            if not held.update(
                state=JobState.QUEUED, next_attempt_at=Now(), lease_token=None, lease_until=None, enqueued_at=None
            ):
                return None
            self.repository.wait_for_retry(error)
            return JobState.QUEUED
        if not held.update(state=JobState.FAILED, finished_at=Now(), lease_until=None, **error_columns(error)):
            return None
        self.repository.fail(error)
        return JobState.FAILED

    def _owned(self) -> JobQuerySet:
        return Job.objects.filter(pk=self.pk, state=JobState.RUNNING, lease_token=self.lease_token)

    def _finish(self, state: JobState) -> None:
        self._owned().update(state=state, finished_at=Now(), lease_until=None)
