"""What keeps the promise that nothing is stuck and nothing is left behind."""

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
from coderepos.sandbox.root import SandboxRoot
from coderepos.services.afterwards import failures_logged
from coderepos.services.sweeping import sweep_root

SWEEP_AFTER_SECONDS: Final = 15 * 60
BATCH: Final = 100
"""Most jobs that one round takes from their workers."""

MOST_WAITING: Final = 20
"""No notification is repeated while so many wait: each of them leads a worker to the oldest job that is due."""

logger = logging.getLogger(__name__)


def register_node() -> Node:
    """Return this machine's row; a new one counts as alive only when its workers have done something."""
    node, _ = Node.objects.get_or_create(name=conf.node_id, defaults={"last_seen": None})
    return node


def prepare_root(node: Node) -> SandboxRoot:
    """Return this machine's sandbox root, checked and marked.

    A machine that changed its name keeps the root whose marker another row of this database knows.

    :raises SandboxRefused: it is not safe, or belongs to another installation; nothing was touched.
    :raises SandboxRootMissing: this machine marked it before, and its marker is gone.
    """
    return _marked_root(node, may_be_new=str(engine.sandbox_root().path) not in node.marked_roots)


def adopt_root() -> SandboxRoot:
    """Mark this machine's sandbox root anew, which the operator moved or emptied on purpose.

    Clones that are not in it any more are reported by the next sweep.

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
            "sandbox root %s: this machine marked it before, and the marker is gone. Mount its disk again; or, where "
            "it was moved or emptied on purpose, run manage.py coderepos_adopt_root as the user of the workers",
            root.path,
        )
        raise
    node.note_root(str(root.path))
    return root


def reap() -> str:
    """Take jobs whose lease expired, notify workers of jobs that wait unnoticed, and record the round; idempotent."""
    taken = [_abandon(job) for job in Job.objects.lapsed().select_related("repository")[:BATCH]]
    rung = 0
    with failures_logged("Due jobs can't be notified of: the queue fails"):
        rung = _ring_again()
    register_node().seen(isolation_level=available_level())
    _warn_of_standstill()
    return f"{sum(state is not None for state in taken)} taken from silent workers, {rung} rung for"


def _abandon(job: Job) -> JobState | None:
    error = WorkerLost()
    try:
        state = job.abandon(error_code=error.code, error_message=error.message)
    except Exception:
        logger.exception("job %s: can't be taken from the silent worker on %s", job.pk, job.node)
        return None
    if state is not None:
        logger.warning("job %s: worker on %s went silent, now %s", job.pk, job.node, state)
    if state == JobState.FAILED:
        # No attempt will come that looks after what this one left.
        with failures_logged("job %s: what it left is looked after by the next sweep", job.pk):
            Node.objects.filter(name=job.node).update(swept_at=None)
        signals.repository_failed.send_robust(
            sender=CodeRepository, repository_id=job.repository_id, job_id=job.pk, error_code=error.code
        )
    return state


def _ring_again() -> int:
    """Ring for due jobs of which no worker took notice, and return how many.

    A notification can be lost with the cluster that fetched it, or waits there behind long work while other clusters
    are idle. All but the first are sent twice: there may be a cluster that takes but does not work.
    """
    unrung = list(Job.objects.oldest_due().unrung()[:MOST_WAITING])
    if not unrung:
        return 0
    wanted = [job for job in unrung for _ in range(2 if job.rung_at or job.attempt else 1)]
    # What waits leads to the oldest jobs, so that a backlog is not notified of twice.
    missing = wanted[queue.waiting() : MOST_WAITING]
    for job in missing:
        queue.ring(job)
    return len({job.pk for job in missing})


def _warn_of_standstill() -> None:
    jobs = Job.objects
    if jobs.overdue().exists() and not jobs.with_recent_heartbeat().exists():
        logger.critical(
            "Jobs are due for more than %d s and no worker takes any: restart the cluster, and look for a worker that "
            "was killed while it was idle, or for tasks of the host that never end",
            OVERDUE_SECONDS,
        )


def sweep() -> str:
    """Compare this machine's sandbox root with the database: remove what nobody knows, report what is missing.

    Links that do not lead to the version of the row are put back. One sandbox that fails costs a line in the log.

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
