"""What happens to a repository right now, in one sentence and in figures."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Self

from django.db.models import Q, Subquery
from django.db.models.functions import Now

from coderepos.api.fields import utc_text
from coderepos.conf import conf
from coderepos.exceptions import error_classes
from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, JobState, TokenStatus

RETRYABLE: Final = {code: kind.retryable for code, kind in error_classes().items()}


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the running attempt has come; figures are ``None`` where they are not known yet."""

    phase: str
    received_mb: float
    limit_mb: float
    objects: int
    percent: int | None

    @classmethod
    def of(cls, job: Job, *, estimated_size_mb: Decimal | None) -> Self:
        """Return the progress that the worker wrote last.

        :param estimated_size_mb: what the bytes that are received are compared with.
        """
        figures: Mapping[str, Any] = job.progress
        done, total = figures.get("objects", 0), figures.get("total_objects", 0)
        objects = done
        if estimated_size_mb and figures.get("phase") == "receiving":
            done, total = figures.get("received_bytes", 0), int(estimated_size_mb * 10**6)
        return cls(
            phase=figures.get("phase", "starting"),
            received_mb=round(figures.get("received_bytes", 0) / 10**6, 1),
            limit_mb=conf.MAX_REPO_SIZE_MB,
            objects=objects,
            percent=min(100, 100 * done // total) if total else None,
        )

    def sentence(self) -> str:
        """Return the phase and its figures as users read them."""
        percent = "" if self.percent is None else f": {self.percent} %"
        match self.phase:
            case "connecting":
                return "Connecting to the Git host"
            case "receiving":
                return f"Receiving objects: {self.received_mb} of at most {self.limit_mb:g} MB"
            case "resolving":
                return f"Resolving deltas{percent}"
            case "writing":
                return f"Writing files{percent}"
            case "publishing":
                return "Publishing the clone"
            case _:
                return "Starting to clone"


@dataclass(frozen=True, kw_only=True)
class Status:
    """A repository with its latest job, read at ``now`` of the database's clock."""

    repository: CodeRepository
    job: Job | None = None
    now: datetime | None = None
    queue_position: int | None = None
    """Jobs that are due and were there before; ``None`` unless this one is due too."""

    @classmethod
    def read(cls, repository: CodeRepository) -> Self:
        """Return the status of ``repository``, in two queries at most."""
        job = Job.objects.filter(repository_id=repository.pk).annotate(now=Now()).newest_first().first()
        if job is None:
            return cls(repository=repository)
        now: datetime = job.now  # type: ignore[attr-defined]  # annotated
        due = job.state == JobState.QUEUED and (job.next_attempt_at is None or job.next_attempt_at <= now)
        return cls(repository=repository, job=job, now=now, queue_position=_jobs_ahead_of(job) if due else None)

    @property
    def repo_id(self) -> uuid.UUID:
        """Id of the repository."""
        return self.repository.pk

    @property
    def clone_status(self) -> str:
        """State of the repository."""
        return self.repository.clone_status

    @property
    def repository_size_mb(self) -> Decimal | None:
        """What the published version takes on disk."""
        return self.repository.repository_size_mb

    @property
    def sandbox_path(self) -> str | None:
        """Where the published version is."""
        return self.repository.sandbox_path

    @property
    def error_code(self) -> str:
        """Code of the last failure."""
        return self.repository.error_code

    @property
    def error_message(self) -> str:
        """Sentence of the last failure."""
        return self.repository.error_message

    @property
    def retryable(self) -> bool:
        """Whether the failed work is worth another try without any change by the user."""
        return RETRYABLE.get(self.repository.error_code, False)

    @property
    def token_status(self) -> TokenStatus:
        """What is known about its token."""
        return self.repository.token_status

    @property
    def token_expires_at(self) -> datetime | None:
        """When its token expires, where that is known."""
        return self.repository.token_expires_at

    @property
    def updated_at(self) -> datetime:
        """When the repository last changed its state."""
        return self.repository.updated_at

    @property
    def progress(self) -> Progress | None:
        """Figures of the running attempt."""
        return (
            Progress.of(self.job, estimated_size_mb=self.repository.estimated_size_mb)
            if self.job and self.job.state == JobState.RUNNING
            else None
        )

    @property
    def progress_message(self) -> str:
        """What happens now, in one sentence."""
        match self.repository.clone_status:
            case CloneStatus.PENDING:
                return self._waiting()
            case CloneStatus.CLONING:
                return self._cloning()
            case CloneStatus.COMPLETED:
                return self._completed()
            case CloneStatus.FAILED if self.repository.error_code == "cancelled":
                return "The clone was cancelled"
            case CloneStatus.FAILED if self.repository.error_code == "sandbox_missing":
                return "The clone is no longer on the disk; clone again to get it back"
            case CloneStatus.FAILED:
                return "Repository could not be cloned"
            case CloneStatus.CLEANING:
                return "Removing the clone from disk"
            case _:
                return "The clone was removed from disk; clone again to get it back"

    def _completed(self) -> str:
        done = "Repository successfully cloned"
        if self.job is None or self.job.kind != JobKind.UPDATE:
            return done
        match self.job.state:
            case JobState.QUEUED:
                return f"{done}, to be cloned again. {self._waiting()}"
            case JobState.RUNNING:
                return f"{done}, now being cloned again. {self._cloning()}"
            case JobState.FAILED:
                return f"{done}; cloning it again failed, so the earlier clone stays. {self.job.error_message}"
            case _:
                return done

    def _waiting(self) -> str:
        job = self.job
        if job and self.now and job.next_attempt_at and job.next_attempt_at > self.now:
            seconds = math.ceil((job.next_attempt_at - self.now).total_seconds())
            return (
                f"Attempt {job.attempt} of {job.max_attempts} failed; "
                f"the next one starts in {seconds} s, at {utc_text(job.next_attempt_at)}"
            )
        match self.queue_position:
            case None | 0:
                return "Waiting for a worker"
            case 1:
                return "Waiting for a worker; 1 job is ahead"
            case ahead:
                return f"Waiting for a worker; {ahead} jobs are ahead"

    def _cloning(self) -> str:
        if not (self.job and self.progress):
            return "Starting to clone"
        again = f" (attempt {self.job.attempt} of {self.job.max_attempts})" if self.job.attempt > 1 else ""
        return self.progress.sentence() + again


def _jobs_ahead_of(job: Job) -> int:
    # Compared inside the database: SQLite keeps its own times with fewer digits than those that Python sends.
    created_at = Subquery(Job.objects.filter(pk=job.pk).values("created_at")[:1])
    earlier = Q(created_at__lt=created_at) | Q(created_at=created_at, pk__lt=job.pk)
    return Job.objects.due().filter(earlier).count()
