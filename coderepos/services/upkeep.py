"""What keeps the promise that nothing is stuck and nothing is left behind."""

from __future__ import annotations

import logging
from typing import Final

from coderepos import queue, signals
from coderepos.conf import conf
from coderepos.exceptions import SandboxRefused, WorkerLost
from coderepos.git.isolation import available_level
from coderepos.git.sandbox import SandboxRoot
from coderepos.models import CodeRepository, Job, JobState, Node
from coderepos.services import engine

SWEEP_AFTER_SECONDS: Final = 15 * 60

logger = logging.getLogger(__name__)


def register_node() -> Node:
    """Return this machine's row, made at its first sign of life.

    A machine that changed its name keeps the sandbox root that its marker shows to be of this database.
    """
    marker = engine.sandbox_root().read_marker()
    ours = marker is not None and Node.objects.filter(root_id=marker).exists()
    node, _ = Node.objects.get_or_create(name=conf.node_id, defaults={"root_id": marker} if ours else {})
    if ours and str(node.root_id) != marker:
        Node.objects.filter(pk=node.pk).update(root_id=marker)
        node.refresh_from_db()
    return node


def prepare_root(node: Node) -> SandboxRoot:
    """Return this machine's sandbox root, checked and marked.

    :raises SandboxRefused: it is not safe, or belongs to another installation; nothing was touched.
    """
    root = engine.sandbox_root()
    root.prepare(str(node.root_id))
    return root


def start_worker() -> None:
    """Register a worker that starts, and remove what an earlier one left; a refused root is loud."""
    node = register_node()
    node.seen(isolation_level=available_level())
    try:
        sweep()
    except SandboxRefused as error:
        logger.critical("sandbox root %s refused: %s", conf.SANDBOX_BASE_PATH, error)


def reap() -> str:
    """Take jobs from silent owners, ring for due jobs that nobody rang for, and record the tick; idempotent."""
    register_node().seen(isolation_level=available_level())
    taken = [_abandon(job) for job in Job.objects.lapsed().select_related("repository")]
    unrung = list(Job.objects.unrung())
    for job in unrung:
        queue.ring(job)
    return f"{sum(state is not None for state in taken)} taken from silent workers, {len(unrung)} rung for"


def _abandon(job: Job) -> JobState | None:
    error = WorkerLost()
    state = job.abandon(error_code=error.code, error_message=error.message)
    if state is not None:
        logger.warning("job %s: worker on %s went silent, now %s", job.pk, job.node, state)
    if state == JobState.FAILED:
        signals.repository_failed.send_robust(
            sender=CodeRepository, repository_id=job.repository_id, job_id=job.pk, error_code=error.code
        )
    return state


def sweep() -> str:
    """Remove from this machine's sandbox root what the database does not know and is older than 15 minutes.

    :raises SandboxRefused: the root belongs to another installation; nothing was touched.
    """
    removed = 0
    for sandbox in prepare_root(register_node()).sandboxes():
        known = _known_versions(sandbox.repository_id)
        removed += sandbox.sweep(keep=known, older_than_seconds=SWEEP_AFTER_SECONDS)
    return f"{removed} removed"


def _known_versions(repository_id: str) -> set[str]:
    """Return the published version of a repository and the one that a running job builds."""
    published = CodeRepository.objects.filter(pk=repository_id).exclude(version="").values_list("version", flat=True)
    building = Job.objects.filter(repository_id=repository_id, state=JobState.RUNNING).values_list(
        "lease_token", flat=True
    )
    return {*published, *(str(token) for token in building)}
