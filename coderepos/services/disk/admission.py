"""Room on the disk for an attempt: reserved before its children start, or the job goes back to the queue.

The reservation is the most that the children may write. One that was estimated too low gives the room back, and the
job is queued again for all that the limit allows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from coderepos import engine
from coderepos.conf import conf
from coderepos.exceptions import CodeReposError, RepositoryTooLarge, SandboxFull, SandboxUnavailable, WaitingForDisk
from coderepos.git.limits import Limits
from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, LeaseLost, Node
from coderepos.models import disk as rows
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.space import Space, space_of
from coderepos.services.afterwards import failures_logged
from coderepos.services.leases import Lease
from coderepos.services.retries import record_failure

PAUSE_SECONDS: Final = 60
"""How long a machine claims nothing after its disk was full; others may be filling it."""

ESTIMATE_FACTOR: Final = 2
"""Room for a first clone per estimated byte: a probe estimates the pack, and a tree takes about as much again."""

GROWTH_FACTOR: Final = 1.25
"""Room for another clone per byte that the last one takes."""

RESTORE_FACTOR: Final = 2
"""Room for a restored clone per byte that it took before: its pack is there twice while it is built."""

LEAST_BYTES: Final = 10**6
"""Room beside that: names, refs and blocks of a small repository."""

STEP_BYTES: Final = 10**5
"""Reservations are multiples of what the sizes of published clones are rounded up to."""

NOTHING: Final[Mapping[str, int | None]] = {}

logger = logging.getLogger(__name__)


def admit(lease: Lease, node: Node, root: SandboxRoot) -> Limits:
    """Reserve room for an attempt, and return the limits that its children have to keep.

    :raises RepositoryTooLarge: there is never room, on no machine.
    :raises WaitingForDisk: there is no room now.
    :raises SandboxUnavailable: the disk can't be asked.
    :raises LeaseLost: the lease is no longer ours.
    """
    job = lease.job
    columns = space_columns(space_of(root.path))
    measured = {node.name: columns["disk_budget_bytes"]}
    limits = lease.persist(lambda: _limits_on_machines(job, measured))
    needed_bytes = needed_bytes_of(job, limits)
    granted_bytes = lease.persist(
        lambda: rows.reserve(job, node, columns, needed_bytes=needed_bytes, limit_bytes=_stepped(limits.disk_bytes))
    )
    if granted_bytes is None:
        raise WaitingForDisk(
            f"The disk of the worker has no room for the {needed_bytes / 10**6:.0f} MB that this clone may take; "
            "it starts by itself when there is some.",
            needed_bytes=needed_bytes,
        )
    return replace(
        limits,
        disk_bytes=min(granted_bytes, limits.disk_bytes),
        wire_bytes=min(granted_bytes, limits.wire_bytes),
    )


def require_budget(repository: CodeRepository, size_bytes: int, measured: Mapping[str, int | None] = NOTHING) -> float:
    """Return how many bytes a clone of a repository may take on the machine whose budget allows most.

    :param size_bytes: what it takes at least, as far as is known before it.
    :param measured: budgets of machines that are known better than by their rows.
    :raises RepositoryTooLarge: it takes more than any machine allows, even where nothing else is on its disk.
    """
    budget_bytes = rows.largest_budget_bytes(
        measured,
        lost_after_seconds=conf.NODE_LOST_MINUTES * 60,
        beside=repository if repository.clone_status == CloneStatus.COMPLETED else None,
    )
    if budget_bytes is None:
        return math.inf
    if size_bytes > budget_bytes:
        raise RepositoryTooLarge.of_machines(size_bytes, budget_bytes)
    return budget_bytes // STEP_BYTES * STEP_BYTES


def _limits_on_machines(job: Job, measured: Mapping[str, int | None] = NOTHING) -> Limits:
    """Return the limits of the settings, or of the machine that allows most where that is less.

    :raises RepositoryTooLarge: no machine ever has room.
    """
    repository, limits = job.repository, engine.limits()
    is_known = job.kind == JobKind.RESTORE or repository.clone_status == CloneStatus.COMPLETED
    size_mb = repository.repository_size_mb if is_known else repository.estimated_size_mb
    budget_bytes = require_budget(repository, math.ceil((size_mb or 0) * 10**6), measured)
    return replace(limits, disk_bytes=int(min(limits.disk_bytes, budget_bytes)))


def needed_bytes_of(job: Job, limits: Limits) -> int:
    """Return how much room an attempt of the job may take, as far as is known before it."""
    repository = job.repository
    if job.needed_bytes is not None:
        likely_bytes = float(job.needed_bytes)
    elif job.kind == JobKind.RESTORE and repository.repository_size_mb is not None:
        likely_bytes = float(repository.repository_size_mb) * RESTORE_FACTOR * 10**6 + LEAST_BYTES
    elif repository.clone_status == CloneStatus.COMPLETED and repository.repository_size_mb is not None:
        sizes_mb = (float(repository.repository_size_mb) * GROWTH_FACTOR, float(repository.estimated_size_mb or 0))
        likely_bytes = max(sizes_mb) * 10**6 + LEAST_BYTES
    elif repository.estimated_size_mb is not None:
        likely_bytes = float(repository.estimated_size_mb) * ESTIMATE_FACTOR * 10**6 + LEAST_BYTES
    else:
        likely_bytes = limits.disk_bytes
    return _stepped(min(likely_bytes, limits.disk_bytes))


def space_columns(space: Space) -> dict[str, Any]:
    """Return the columns of a machine's row for what was measured and what the settings allow."""
    return rows.space_columns(space, budget_bytes=conf.sandbox_max_bytes, free_bytes=conf.sandbox_free_bytes)


@contextmanager
def outgrown_reported(lease: Lease, limits: Limits, root: SandboxRoot) -> Iterator[None]:
    """Run a clone under ``limits``, and tell a repository that outgrew its reservation from one that is too large.

    :raises WaitingForDisk: it needs more than was reserved for it.
    :raises RepositoryTooLarge: it is larger than the settings, or the machine that allows most, allow.
    :raises SandboxUnavailable: a child says that the disk is full, and it is not.
    """
    try:
        yield
    except SandboxFull as error:
        # A full disk pauses the whole machine: no child decides that.
        if root.takes(STEP_BYTES):
            logger.warning("job %s: the disk is said to be full, and takes more", lease.job.pk)
            raise SandboxUnavailable from error
        raise
    except RepositoryTooLarge as error:
        most_bytes = lease.persist(lambda: _limits_on_machines(lease.job)).disk_bytes
        if limits.disk_bytes >= most_bytes:
            raise
        raise WaitingForDisk(
            "The repository is larger than estimated; its clone starts again, with more room on the disk.",
            needed_bytes=_stepped(most_bytes),
            begins_again=True,
        ) from error


def put_back(lease: Lease, error: WaitingForDisk) -> str:
    """Queue a job again that has no room, without counting the attempt, and return the outcome of the attempt.

    One that has waited for long is treated as one that failed.
    """
    after_seconds = 0 if error.fields.get("begins_again") else rows.WAIT_SECONDS
    needed_bytes = int(str(error.fields["needed_bytes"]))
    logger.info("job %s: %s", lease.job.pk, error.message)
    try:
        waits = lease.persist(
            lambda: rows.wait_for_disk(lease.job, error, needed_bytes=needed_bytes, after_seconds=after_seconds)
        )
    except LeaseLost:
        return "lost"
    return "waiting_for_disk" if waits else record_failure(lease, error)


def note_failure(node: Node, error: CodeReposError) -> None:
    """Let this machine claim nothing for a while if its disk was full all the same; a failure to note it is logged."""
    if isinstance(error, SandboxFull):
        logger.critical("The disk of the sandboxes is full; %s claims no job for %d s", node.name, PAUSE_SECONDS)
        with failures_logged("The claims of %s can't be paused", node.name):
            node.pause_claims(seconds=PAUSE_SECONDS)


def _stepped(size_bytes: float) -> int:
    """Round up to the steps of :data:`STEP_BYTES`."""
    return -int(-size_bytes // STEP_BYTES) * STEP_BYTES
