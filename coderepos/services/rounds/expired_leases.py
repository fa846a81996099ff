"""What happens when a lease expires: the job is queued again, or has failed; and no due job stays unnoticed."""

from __future__ import annotations

import logging
from typing import Final

from coderepos import queues, signals
from coderepos.exceptions import WorkerLost
from coderepos.git.confinement.profiles import available_level
from coderepos.models import Flow, Job, JobState
from coderepos.models.job_states import OVERDUE_SECONDS
from coderepos.services.afterwards import announce, failures_logged, published
from coderepos.services.disk.purging import request_purge
from coderepos.services.disk.this_machine import register_node
from coderepos.services.health.signs import read_signs

BATCH: Final = 100
"""Most leases that one round expires."""

MOST_WAITING: Final = 20
"""No job is enqueued again while this many tasks wait: each of them leads a worker to the oldest due job."""

logger = logging.getLogger(__name__)


def reap() -> str:
    """Expire leases, enqueue due jobs that no worker was notified of lately, and record the round; idempotent."""
    states = [_expire_lease(job) for job in Job.objects.lease_expired().select_related("repository")[:BATCH]]
    with failures_logged("Flows can't be told of due jobs"):
        Flow.objects.repair()
    enqueued = 0
    with failures_logged("Due jobs can't be enqueued: the queue fails"):
        enqueued = _enqueue_overlooked()
    register_node().record_heartbeat(isolation_level=available_level())
    _warn_of_standstill()
    return f"{sum(state is not None for state in states)} leases expired, {enqueued} jobs enqueued"


def _expire_lease(job: Job) -> JobState | None:
    error = WorkerLost()
    try:
        state = job.expire_lease(error)
    except Exception:
        logger.exception("job %s: lease of the worker on %s can't be expired", job.pk, job.node)
        return None
    if state is not None:
        logger.warning("job %s: lease of the worker on %s expired, now %s", job.pk, job.node, state)
        # A later attempt may run on another machine, and would not remove what this one left.
        with failures_logged("job %s: a purge of what it left can't be requested", job.pk):
            request_purge(job.repository)
    if state == JobState.FAILED:
        announce(
            signals.repository_failed,
            repository_id=job.repository_id,
            project_id=job.repository.project_id,
            job_id=job.pk,
            error_code=error.code,
            **published(job.repository),
        )
    return state


def _enqueue_overlooked() -> int:
    """Enqueue due jobs of which no worker was notified lately, and return how many.

    A notification can be lost with the cluster that fetched it, or wait there behind long work while other clusters
    are idle. All but the first are sent twice: a cluster may fetch them and never run them.
    """
    overlooked = list(Job.objects.oldest_due().awaiting_enqueue()[:MOST_WAITING])
    if not overlooked:
        return 0
    wanted = [job for job in overlooked for _ in range(2 if job.enqueued_at or job.attempt else 1)]
    waiting = queues.current().facts().waiting
    # Tasks that wait lead to the oldest jobs, so that a backlog is not enqueued twice.
    missing = wanted[:1] if waiting is None else wanted[waiting:MOST_WAITING]
    for job in missing:
        queues.enqueue(job)
    return len({job.pk for job in missing})


def _warn_of_standstill() -> None:
    if read_signs().stand_still:
        logger.critical(
            "Jobs have been due for more than %d s and no worker claims any: restart the cluster, and look for a "
            "worker that was killed while idle, or for tasks of the host that never end",
            OVERDUE_SECONDS,
        )
