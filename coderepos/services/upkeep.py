"""What keeps the promise that nothing is stuck and nothing is left behind."""

from __future__ import annotations

import logging
import uuid
from typing import Final

from coderepos import queue, signals
from coderepos.conf import conf
from coderepos.exceptions import SandboxRefused, WorkerLost
from coderepos.git.isolation import available_level
from coderepos.git.sandbox_root import SandboxRoot
from coderepos.models import CodeRepository, Job, JobState, Node
from coderepos.services import engine

SWEEP_AFTER_SECONDS: Final = 15 * 60

logger = logging.getLogger(__name__)


def register_node() -> Node:
    """Return this machine's row, made at its first sign of life."""
    node, _ = Node.objects.get_or_create(name=conf.node_id)
    return node


def prepare_root(node: Node) -> SandboxRoot:
    """Return this machine's sandbox root, checked and marked.

    A machine that changed its name keeps the root whose marker another row of this database knows.

    :raises SandboxRefused: it is not safe, or belongs to another installation; nothing was touched.
    """
    root = engine.sandbox_root()
    marker = _uuid(root.read_marker())
    if marker not in (None, node.root_id) and Node.objects.filter(root_id=marker).exists():
        Node.objects.filter(pk=node.pk).update(root_id=marker)
        node.refresh_from_db()
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
        repository_id = _uuid(sandbox.repository_id)
        if repository_id is None:
            continue
        known = _known_versions(repository_id)
        removed += sandbox.sweep(keep=known, older_than_seconds=SWEEP_AFTER_SECONDS)
    return f"{removed} removed"


def _known_versions(repository_id: uuid.UUID) -> set[str]:
    """Return the published version of a repository and the one that a running job builds."""
    published = CodeRepository.objects.filter(pk=repository_id).exclude(version="").values_list("version", flat=True)
    building = Job.objects.filter(repository_id=repository_id, state=JobState.RUNNING).values_list(
        "lease_token", flat=True
    )
    return {*published, *(str(token) for token in building)}


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text or "")
    except ValueError:
        return None
