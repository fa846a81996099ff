"""What becomes of an attempt that failed: a retry, or the end of the job.

What is retried, each error class says (``retryable``); when, :meth:`Job.schedule_retry
<coderepos.models.job.Job.schedule_retry>`; how often, the setting ``CLONE_MAX_RETRIES``, which a job keeps as
``max_attempts``.
"""

from __future__ import annotations

import logging
import math

from coderepos import queues, signals
from coderepos.exceptions import CodeReposError, RemoteAuthFailed, WorkerLost
from coderepos.models import AuditEvent, Job, JobState, LeaseLost, alias
from coderepos.models.locking import row_transaction
from coderepos.services.afterwards import announce, failures_logged, published
from coderepos.services.leases import Lease
from coderepos.services.trail import audit_failure

logger = logging.getLogger(__name__)


def record_failure(lease: Lease, error: CodeReposError) -> str:
    """Record the failure of an attempt, schedule a retry or fail the job, and return the outcome of the attempt."""
    job = lease.job
    logger.warning("job %s: attempt %s failed: %s: %s", job.pk, job.attempt, error.code, error.message)
    try:
        outcome = lease.persist(lambda: _write_failure(job, error))
    except LeaseLost:
        logger.warning("job %s: the lease was lost; the failure is not recorded", job.pk)
        return "lost"
    if isinstance(error, RemoteAuthFailed) and outcome != "lost":
        audit_failure(
            AuditEvent.TOKEN_REFUSED, error, repository=job.repository, job_id=job.pk, details={"attempt": job.attempt}
        )
    if outcome == "retry_scheduled":
        with failures_logged("job %s: the retry can't be enqueued; the upkeep will enqueue it", job.pk):
            _enqueue_retry(job)
    elif outcome == "failed":
        _announce_failure(job, error)
    return outcome


def give_back(lease: Lease) -> None:
    """Give a job back whose worker is told to end, so that another one has it at once; the attempt counts.

    Tried once: a worker that ends waits for no database. Where that fails, the lease runs out.
    """
    job, error = lease.job, WorkerLost()
    with failures_logged("job %s: it can't be given back; its lease runs out", job.pk):
        state = job.give_back(error)
        logger.warning("job %s: its worker was interrupted; it is %s", job.pk, state or "no longer its own")
        if state == JobState.QUEUED:
            queues.enqueue(job)
        elif state == JobState.FAILED:
            _announce_failure(job, error)


def _announce_failure(job: Job, error: CodeReposError) -> None:
    announce(
        signals.repository_failed,
        repository_id=job.repository_id,
        project_id=job.repository.project_id,
        job_id=job.pk,
        error_code=error.code,
        **published(job.repository),
    )


def _write_failure(job: Job, error: CodeReposError) -> str:
    """Write the failure in one transaction, and return the outcome."""
    again = error.retryable and job.attempts_left and job.slow_attempts < (error.most_retries or math.inf)
    with row_transaction(alias()):
        won = job.schedule_retry(error) if again else job.fail(error)
        if won:
            if isinstance(error, RemoteAuthFailed):
                job.repository.record_token_result(accepted=False)
            return "retry_scheduled" if again else "failed"
    # Written by an earlier try, whose answer was lost with its connection?
    return "failed" if job.has_ended(JobState.FAILED, error_code=error.code) else "lost"


def _enqueue_retry(job: Job) -> None:
    row = Job.objects.filter(pk=job.pk)
    when = row.values_list("next_attempt_at", flat=True).first()
    if when is not None:
        queues.enqueue_at(job, when)
