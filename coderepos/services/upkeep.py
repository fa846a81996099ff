"""Upkeep of jobs and of the sandbox root: nothing stays stuck, and nothing is left behind."""

from __future__ import annotations

import logging
import uuid
from typing import Final

from coderepos import engine, queue, signals
from coderepos.conf import conf
from coderepos.exceptions import SandboxRootMissing, WorkerLost
from coderepos.git.confinement.profiles import available_level
from coderepos.models import CodeRepository, Job, JobState, Node
from coderepos.models.job import OVERDUE_SECONDS
from coderepos.sandbox.mounts import mount_point_of
from coderepos.sandbox.root import SandboxRoot
from coderepos.services.afterwards import failures_logged
from coderepos.services.sweeping import sweep_root

SWEEP_AFTER_SECONDS: Final = 15 * 60
BATCH: Final = 100
"""Most leases that one round expires."""

MOST_WAITING: Final = 20
"""No job is enqueued again while this many tasks wait: each of them leads a worker to the oldest due job."""

logger = logging.getLogger(__name__)


def register_node() -> Node:
    """Return this machine's row; a new one counts as alive only after its workers have finished a round of upkeep."""
    node, _ = Node.objects.get_or_create(name=conf.node_id, defaults={"last_seen": None})
    return node


def prepare_root(node: Node) -> SandboxRoot:
    """Return this machine's sandbox root, checked and marked.

    A machine that changed its name keeps a root whose marker belongs to another row of this database.

    :raises SandboxRefused: it is not safe, or belongs to another installation; nothing was touched.
    :raises SandboxRootMissing: it was marked before, or had a disk of its own on another machine, and its marker is
        gone.
    """
    path = engine.sandbox_root().path
    return _marked_root(node, may_be_new=node.may_mark(str(path), mount_point=mount_point_of(path)))


def adopt_root() -> SandboxRoot:
    """Mark this machine's sandbox root anew, which the operator moved or emptied on purpose.

    The next sweep reports clones that are not in it any more.

    :raises SandboxRefused: it is not safe, or belongs to another installation; nothing was touched.
    """
    return _marked_root(register_node(), may_be_new=True)


def _marked_root(node: Node, *, may_be_new: bool) -> SandboxRoot:
    root = engine.sandbox_root()
    marker = _uuid(root.read_marker())
    if marker not in (None, node.root_id) and Node.objects.filter(root_id=marker).exists():
        Node.objects.filter(pk=node.pk).update(root_id=marker)
        node.refresh_from_db()
    try:
        root.prepare(str(node.root_id), may_be_new=may_be_new)
    except SandboxRootMissing:
        logger.critical(
            "sandbox root %s: it was in use before, and its marker is gone. Mount its disk again; or, where "
            "it was moved or emptied on purpose, run manage.py coderepos_adopt_root as the user of the workers",
            root.path,
        )
        raise
    node.record_root(str(root.path), mount_point=mount_point_of(root.path))
    return root


def reap() -> str:
    """Expire leases, enqueue due jobs that no worker was notified of lately, and record the round; idempotent."""
    states = [_expire_lease(job) for job in Job.objects.lease_expired().select_related("repository")[:BATCH]]
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
    if state == JobState.FAILED:
        # No later attempt will remove what this one left.
        with failures_logged("job %s: a sweep of what it left can't be requested", job.pk):
            Node.objects.filter(name=job.node).update(swept_at=None)
        signals.repository_failed.send_robust(
            sender=CodeRepository, repository_id=job.repository_id, job_id=job.pk, error_code=error.code
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
    # Tasks that wait lead to the oldest jobs, so that a backlog is not enqueued twice.
    missing = wanted[queue.waiting() : MOST_WAITING]
    for job in missing:
        queue.enqueue(job)
    return len({job.pk for job in missing})


def _warn_of_standstill() -> None:
    jobs = Job.objects
    if jobs.overdue().exists() and not jobs.with_recent_heartbeat().exists():
        logger.critical(
            "Jobs have been due for more than %d s and no worker claims any: restart the cluster, and look for a "
            "worker that was killed while idle, or for tasks of the host that never end",
            OVERDUE_SECONDS,
        )


def sweep() -> str:
    """Compare this machine's sandbox root with the database: remove what has no row, report what is missing.

    Links that do not point to the version of the row are reset. A sandbox that fails is logged, and the sweep goes on.

    :raises SandboxRefused: the root belongs to another installation; nothing was touched.
    :raises SandboxRootMissing: its disk is not mounted.
    """
    node = register_node()
    return sweep_root(prepare_root(node), node, older_than_seconds=SWEEP_AFTER_SECONDS)


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text or "")
    except ValueError:
        return None
