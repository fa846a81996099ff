"""The status of a repository: what happens now, in one sentence and in figures."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import Count, F, Model, Q, QuerySet, Subquery
from django.db.models.functions import Now

from coderepos import access
from coderepos.conf import conf
from coderepos.exceptions import NotFound, error_classes
from coderepos.git.results import Progress
from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, JobState, alias
from coderepos.models.compiled_query import CompiledQuery, Parameter
from coderepos.models.database_clock import utc_text
from coderepos.models.token_status import token_status_at
from coderepos.services.disk.purging import silent_machines

_RETRYABLE: Final = {code: kind.retryable for code, kind in error_classes().items()}


def _in_order(model: type[Model], *names: str) -> tuple[str, ...]:
    """Return columns in the order in which Django takes their values."""
    return tuple(field.attname for field in model._meta.concrete_fields if field.attname in names)


_OF_JOB: Final = _in_order(
    Job,
    *("id", "repository_id", "kind", "state", "attempt", "max_attempts", "next_attempt_at", "heartbeat_at", "progress"),
    *("error_message", "flow", "waits_for_disk_since", "needed_bytes"),
)
"""Columns of a job that a status shows."""

_OF_REPOSITORY: Final = _in_order(
    CodeRepository,
    *("id", "project_id", "clone_status", "repository_size_mb", "estimated_size_mb", "sandbox_path", "stored_pack"),
    *("error_code", "error_message", "has_token", "token_accepted", "token_expires_at", "updated_at"),
)
"""Columns of its repository that a status shows."""

_PULLING: Final = ("starting", "connecting", "receiving")
"""Phases of a restore in which its bytes come from the storage."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A repository with its latest job, read at ``now`` of the database's clock."""

    repository: CodeRepository
    job: Job | None = None
    now: datetime | None = None
    queue_position: int | None = None
    """Due jobs of the same flow that have waited longer; ``None`` unless this one is due too.

    Other flows take turns with it, whatever waits in them.
    """

    silent_machines: tuple[str, ...] = ()
    """Machines that a repository that is CLEANING waits for, and that were not seen at work lately."""

    @property
    def retryable(self) -> bool:
        """Whether the failed work is worth another try without any change by the user."""
        return is_retryable(self.repository.error_code)

    @property
    def progress(self) -> Progress | None:
        """What the worker reported last; ``None`` unless the job is running."""
        if self.job is None or self.job.state != JobState.RUNNING:
            return None
        figures: Mapping[str, Any] = self.job.progress
        return Progress(
            phase=figures.get("phase", "starting"),
            received_bytes=figures.get("received_bytes", 0),
            objects=figures.get("objects", 0),
            total_objects=figures.get("total_objects", 0),
        )

    @property
    def percent(self) -> int | None:
        """Share of the running phase that is done, if that is known."""
        if (progress := self.progress) is None:
            return None
        done, total = progress.objects, progress.total_objects
        if self.repository.estimated_size_mb and progress.phase == "receiving":
            done, total = progress.received_bytes, int(self.repository.estimated_size_mb * 10**6)
        return min(100, 100 * done // total) if total else None

    @property
    def received_mb(self) -> float | None:
        """MB that the running attempt has received."""
        return None if self.progress is None else round(self.progress.received_bytes / 10**6, 1)

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
                return self._cleaning()
            case _:
                removed: str = self.repository.error_message
                return removed or "The clone was removed from disk; clone again to get it back"

    def _completed(self) -> str:
        done = "Repository successfully cloned"
        is_stored_only = self.repository.is_stored_only
        if is_stored_only:
            done = f"{done}, and kept in storage alone"
        if self.job is None or self.job.kind != JobKind.UPDATE:
            return self._stored_only(done) if is_stored_only else done
        match self.job.state:
            case JobState.QUEUED:
                return f"{done}, to be cloned again. {self._waiting()}"
            case JobState.RUNNING:
                return f"{done}, now being cloned again. {self._cloning()}"
            case JobState.FAILED:
                return f"{done}; cloning it again failed, so the earlier clone stays. {self.job.error_message}"
            case _:
                return done

    def _stored_only(self, done: str) -> str:
        match self.job and self.job.kind == JobKind.RESTORE and self.job.state:
            case JobState.QUEUED:
                return f"{done}, to be restored. {self._waiting()}"
            case JobState.RUNNING:
                return f"{done}, now being restored. {self._cloning()}"
            case JobState.FAILED if self.job:
                return f"{done}; the last restore failed. {self.job.error_message}"
            case _:
                return f"{done}; it is restored when it is read"

    def _cleaning(self) -> str:
        if not self.silent_machines:
            return "Removing the clone from disk"
        return (
            f"Removing the clone from disk; waiting for {' and '.join(self.silent_machines)}, not seen at work for "
            "more than a minute, to come back and do it"
        )

    def _waiting(self) -> str:
        job = self.job
        if job and self.now and job.next_attempt_at and job.next_attempt_at > self.now:
            seconds = math.ceil((job.next_attempt_at - self.now).total_seconds())
            if job.waits_for_disk_since is not None:
                return (
                    f"Waiting for room on the disk, {math.ceil((job.needed_bytes or 0) / 10**6)} MB; "
                    f"tried again in {seconds} s or sooner, at {utc_text(job.next_attempt_at)}"
                )
            return (
                f"Attempt {job.attempt} of {job.max_attempts} failed; "
                f"the next one starts in {seconds} s, at {utc_text(job.next_attempt_at)}"
            )
        if job and job.kind == JobKind.RESTORE:
            return "Waiting for a worker to restore the clone from storage"
        if not (job and self.queue_position):
            return "Waiting for a worker"
        whose = "of this project" if job.flow == str(self.repository.project_id) else "of its share"
        jobs = f"1 job {whose} is" if self.queue_position == 1 else f"{self.queue_position} jobs {whose} are"
        return f"Waiting for a worker; {jobs} ahead"

    def _cloning(self) -> str:
        if self.job and self.job.kind == JobKind.RESTORE and (self.progress is None or self.progress.phase in _PULLING):
            return "Restoring the clone from storage"
        if not (self.job and self.progress):
            return "Starting to clone"
        again = f" (attempt {self.job.attempt} of {self.job.max_attempts})" if self.job.attempt > 1 else ""
        return self._phase(self.progress.phase) + again

    def _phase(self, phase: str) -> str:
        percent = "" if self.percent is None else f": {self.percent} %"
        match phase:
            case "connecting":
                return "Connecting to the Git host"
            case "receiving":
                return f"Receiving objects: {self.received_mb} of at most {conf.MAX_REPO_SIZE_MB:g} MB"
            case "resolving":
                return f"Resolving deltas{percent}"
            case "writing":
                return f"Writing files{percent}"
            case "publishing":
                return "Publishing the clone"
            case _:
                return "Starting to clone"


def status_of(repository: CodeRepository) -> Status:
    """Return the status of a repository, read anew with its latest job; the role of no user is checked.

    :raises NotFound: it was deleted.
    """
    fresh = CodeRepository.objects.without_token().with_token_status().filter(pk=repository.pk).first()
    if fresh is None:
        raise NotFound
    job: Any = Job.objects.filter(repository_id=fresh.pk).annotate(now=Now()).newest_first().first()
    return _status(fresh, job, job and job.now)


def find_status(repository_id: uuid.UUID, *, visible_to: Any) -> Status:
    """Return the status of a repository that a user may see, of which no more is read than its status needs.

    Programs ask for it all the time: it takes one query, one more for its place in the queue, and one while it is
    CLEANING.

    :raises NotFound: it is unknown, or of a project that the user may not see.
    """
    if row := _NEWEST_JOB.first(
        {"repository_id": repository_id}, within=("project", access.projects_to_check(visible_to))
    ):
        return _status_in(row)
    repositories = access.visible_repositories(visible_to).without_token().with_token_status()
    repository = repositories.filter(pk=repository_id).first()
    if repository is None:
        raise NotFound
    return _status(repository, None, None)


def _newest_job() -> QuerySet[Job, Any]:
    """Return the newest job of a repository first, with what a status shows."""
    repository_id = Parameter("repository_id", Job._meta.get_field("repository").target_field)
    return (
        Job.objects.filter(repository_id=repository_id)
        .annotate(project=F("repository__project"), now=Now())
        .newest_first()
        .values_list(*_OF_JOB, *(f"repository__{name}" for name in _OF_REPOSITORY), "project", "now")
    )


def _jobs_ahead() -> QuerySet[Job, Any]:
    """Return how many due jobs of its flow have waited longer than a job, where there is any."""
    job = Job.objects.filter(pk=Parameter("job_id", Job._meta.pk))
    # Compared inside the database: SQLite keeps its own times with fewer digits than those that Python sends.
    due_at = Subquery(job.first_due_at())
    longer = Q(due_at__lt=due_at) | Q(due_at=due_at, pk__lt=Parameter("job_id", Job._meta.pk))
    rows = Job.objects.oldest_due().filter(longer, flow=Parameter("flow", Job._meta.get_field("flow")))
    return rows.order_by().values("flow").annotate(count=Count("pk")).values_list("count")


_NEWEST_JOB: Final = CompiledQuery(_newest_job)
_JOBS_AHEAD: Final = CompiledQuery(_jobs_ahead)


def _status_in(row: tuple[Any, ...]) -> Status:
    using = alias()
    *values, _, now = row
    job = Job.from_db(using, _OF_JOB, values[: len(_OF_JOB)])
    job.repository = repository = CodeRepository.from_db(using, _OF_REPOSITORY, values[len(_OF_JOB) :])
    repository.token_status = token_status_at(repository, now)
    return _status(repository, job, now)


def _status(repository: CodeRepository, job: Job | None, now: datetime | None) -> Status:
    silent = silent_machines(repository) if repository.clone_status == CloneStatus.CLEANING else ()
    position = None
    if job and now and job.state == JobState.QUEUED and (job.next_attempt_at is None or job.next_attempt_at <= now):
        ahead = _JOBS_AHEAD.first({"job_id": job.pk, "flow": job.flow})
        position = ahead[0] if ahead else 0
    return Status(repository=repository, job=job, now=now, queue_position=position, silent_machines=silent)


def is_retryable(error_code: str) -> bool:
    """Return whether the failure with this code is worth another try without any change by the user."""
    return _RETRYABLE.get(error_code, False)
