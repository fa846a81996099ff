"""Room on the disk of a machine: what published clones take, what running jobs reserved, and who waits for some.

A reservation is a column of the running job, so it ends with the job, whoever ends it, and nothing drifts. The row of
the machine is the lock: sums are read by a statement that is younger than it, since a snapshot from before would not
have what the last holder of the lock reserved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.db.models import Exists, F, OuterRef, Q, QuerySet, Sum
from django.db.models.functions import Coalesce, Now

from coderepos.exceptions import CodeReposError
from coderepos.models.clone_transitions import CloneStatus
from coderepos.models.database import alias
from coderepos.models.error_columns import error_columns
from coderepos.models.flow import Flow
from coderepos.models.job import Job
from coderepos.models.job_queryset import JobQuerySet, seconds_from_now
from coderepos.models.job_states import JobState, LeaseLost
from coderepos.models.locking import row_transaction
from coderepos.models.node import Node
from coderepos.models.purge import Purge
from coderepos.models.repository import CodeRepository
from coderepos.sandbox.space import Space

WAIT_SECONDS: Final = 120
"""How long a job that waits for room waits at most until it is tried again; upkeep wakes it when there is some."""

LONGEST_WAIT_SECONDS: Final = 24 * 3600
"""How long a job waits for room before each further attempt without any counts."""

WOKEN: Final = 20
"""Most waiting jobs that are looked at for one to wake."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """The room of one machine's disk, in bytes."""

    used_bytes: int
    """What published clones take, as their rows say."""

    reserved_bytes: int
    """What running jobs may still write."""

    budget_bytes: int | None
    """What clones may take together; ``None`` where only the floor bounds them."""

    spare_bytes: int
    """What is free above the floor; bytes that running jobs wrote already are missing from it."""

    has_inodes: bool

    @property
    def idle_bytes(self) -> int:
        """What there would be if nothing ran."""
        by_budget = math.inf if self.budget_bytes is None else self.budget_bytes - self.used_bytes
        return int(min(by_budget, self.spare_bytes)) if self.has_inodes else 0

    @property
    def bytes(self) -> int:
        """What can be reserved; negative where the budget or the floor is passed already."""
        return self.idle_bytes - self.reserved_bytes


def disk_names(node: Node) -> Sequence[str]:
    """Return the names under which the machine of ``node`` is known: one that was renamed keeps its disk."""
    return list(Node.objects.filter(root_id=node.root_id).order_by("name").values_list("name", flat=True))


def space_columns(space: Space, *, budget_bytes: int | None, free_bytes: int | None) -> dict[str, Any]:
    """Return the columns of a machine's row for what was measured.

    :param budget_bytes: what clones may take together.
    :param free_bytes: what has to stay free; ``None`` for a share of the file system.
    """
    return {
        "disk_budget_bytes": budget_bytes,
        "disk_floor_bytes": space.floor_bytes(free_bytes),
        "disk_free_bytes": space.free_bytes,
        "disk_lacks_inodes": space.lacks_inodes,
        "disk_measured_at": Now(),
    }


def room_of(names: Sequence[str], columns: Mapping[str, Any], *, without: Job | None = None) -> Room:
    """Return the room of the machine with these names.

    :param columns: of :func:`space_columns`.
    :param without: a job whose own reservation does not count.
    """
    # Jobs first: what one of them publishes in between counts twice, and never not at all.
    held_bytes = reserved_bytes(names, without=without)
    return Room(
        used_bytes=used_bytes(names),
        reserved_bytes=held_bytes,
        budget_bytes=columns["disk_budget_bytes"],
        spare_bytes=columns["disk_free_bytes"] - columns["disk_floor_bytes"],
        has_inodes=not columns["disk_lacks_inodes"],
    )


def reserved_bytes(names: Sequence[str], *, without: Job | None = None) -> int:
    """Return what running jobs of the machine with these names may still write.

    :param without: a job whose own reservation does not count.
    """
    running = Job.objects.filter(node__in=names, state=JobState.RUNNING)
    if without is not None:
        running = running.exclude(pk=without.pk)
    return running.aggregate(sum=Sum("reserved_bytes"))["sum"] or 0


def used_bytes(names: Sequence[str]) -> int:
    """Return what clones on the machine with these names take, as their rows say, also those that are being removed."""
    published = CodeRepository.objects.filter(node__in=names, clone_status=CloneStatus.COMPLETED)
    return _bytes_of(published) + leaving_bytes(names)


def leaving_bytes(names: Sequence[str]) -> int:
    """Return what is being removed from the machine with these names; the rows of its repositories may be gone."""
    leaving = CodeRepository.objects.filter(
        node__in=names,
        clone_status=CloneStatus.CLEANING,
        pk__in=Purge.objects.filter(node__in=names).values("repository_id"),
    )
    without_row = ~Exists(CodeRepository.objects.filter(pk=OuterRef("repository_id")))
    purges = Purge.objects.filter(node__in=names).aggregate(
        rowless_bytes=Sum("size_bytes", filter=without_row), surplus_bytes=Sum("surplus_bytes")
    )
    return _bytes_of(leaving) + (purges["rowless_bytes"] or 0) + (purges["surplus_bytes"] or 0)


def _bytes_of(repositories: QuerySet[CodeRepository]) -> int:
    return math.ceil((repositories.aggregate(sum=Sum("repository_size_mb"))["sum"] or 0) * 10**6)


def largest_budget_bytes(
    measured: Mapping[str, int | None], *, lost_after_seconds: float, beside: CodeRepository | None = None
) -> int | None:
    """Return what one clone can take at most on the machine that allows most, whatever else goes from its disk.

    :param measured: budgets of machines that are known better than by their rows.
    :param lost_after_seconds: silence after which a machine does not count.
    :param beside: a repository whose published version stays on its machine while another one is made.
    :returns: ``None`` where a machine has no budget, is not measured yet, or where there is no machine.
    """
    lost = Node.objects.lost(after_seconds=lost_after_seconds)
    machines = Node.objects.exclude(pk__in=lost.values("pk"))
    budgets = {**dict(machines.values_list("name", "disk_budget_bytes")), **measured}
    if beside is not None and (budget_bytes := budgets.get(beside.node)) is not None:
        budgets[beside.node] = max(0, budget_bytes - math.ceil((beside.repository_size_mb or 0) * 10**6))
    known = [one for one in budgets.values() if one is not None]
    return max(known) if known and len(known) == len(budgets) else None


def reserve(job: Job, node: Node, columns: Mapping[str, Any], *, needed_bytes: int, limit_bytes: int) -> int | None:
    """Reserve room for a running job, and return how many bytes; ``None`` if there is none.

    The whole limit is reserved where that leaves as much again for others, so that an estimate which was too low costs
    nothing while there is plenty.

    :param columns: of :func:`space_columns`.
    :raises LeaseLost: the lease is no longer ours.
    """
    names = disk_names(node)
    with row_transaction(alias(), read_committed=True):
        # In the order of their names: two processes never wait for each other.
        for name in names:
            Node.objects.filter(pk=name).update(**columns)
        room = room_of(names, columns, without=job)
        held_bytes = _held_for_elders(job, names, room)
        if needed_bytes + held_bytes > room.bytes:
            return None
        granted_bytes = limit_bytes if 2 * limit_bytes + held_bytes <= room.bytes else needed_bytes
        if not owned(job).update(reserved_bytes=granted_bytes, needed_bytes=None, waits_for_disk_since=None):
            raise LeaseLost
    return granted_bytes


def _held_for_elders(job: Job, names: Sequence[str], room: Room) -> int:
    """Return what the job must leave for the longest waiting one that only has to wait for running jobs.

    Others pass one that waits for clones to go from the disk, which may take for ever.
    """
    elders = waiting_for_disk().filter(node__in=names).exclude(pk=job.pk)
    if job.waits_for_disk_since is not None:
        elders = elders.filter(waits_for_disk_since__lt=job.waits_for_disk_since)
    needed_bytes = elders.values_list("needed_bytes", flat=True).first() or 0
    return needed_bytes if needed_bytes <= room.idle_bytes else 0


def waiting_for_disk() -> JobQuerySet:
    """Return the jobs that wait for room on a disk, the longest waiting first."""
    waiting = Job.objects.filter(state=JobState.QUEUED, waits_for_disk_since__isnull=False)
    return waiting.order_by("waits_for_disk_since", "id")


def owned(job: Job) -> JobQuerySet:
    """Return the job as long as this very lease on it holds."""
    return Job.objects.filter(pk=job.pk, state=JobState.RUNNING, lease_token=job.lease_token)


def wait_for_disk(job: Job, error: CodeReposError, *, needed_bytes: int, after_seconds: float) -> bool:
    """Record RUNNING → QUEUED for a job without room; the attempt does not count.

    :returns: ``False`` if the lease is no longer ours, or it waited for :data:`LONGEST_WAIT_SECONDS` already.
    """
    with row_transaction(alias()):
        patient = Q(waits_for_disk_since=None) | Q(
            waits_for_disk_since__gte=Now() - timedelta(seconds=LONGEST_WAIT_SECONDS)
        )
        won = (
            owned(job)
            .filter(patient)
            .update(
                state=JobState.QUEUED,
                attempt=F("attempt") - 1,
                next_attempt_at=seconds_from_now(after_seconds),
                lease_token=None,
                lease_until=None,
                enqueued_at=None,
                progress={},
                reserved_bytes=0,
                needed_bytes=needed_bytes,
                waits_for_disk_since=Coalesce("waits_for_disk_since", Now()),
                **error_columns(error),
            )
        )
        if won:
            job.repository.wait_for_retry(error)
    return bool(won)


def wake_waiting(room: Room) -> int:
    """Make the longest waiting jobs due that fit into the room, in their order, and return how many."""
    left_bytes, woken = room.bytes, 0
    for job in waiting_for_disk().only("pk", "flow", "needed_bytes")[:WOKEN]:
        left_bytes -= job.needed_bytes or 0
        if left_bytes < 0:
            break
        later = Job.objects.filter(pk=job.pk, state=JobState.QUEUED, next_attempt_at__gt=Now())
        if later.update(next_attempt_at=Now(), enqueued_at=None):
            Flow.objects.join(job)
            woken += 1
    return woken
