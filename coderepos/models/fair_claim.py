"""The claim of a worker that is free: the next job of the flow whose turn it is."""

from __future__ import annotations

import uuid
from typing import Final

from django.db import connections
from django.db.models import F

from coderepos.models.database import alias
from coderepos.models.flow import Flow
from coderepos.models.job import Job
from coderepos.models.job_states import JobState
from coderepos.models.locking import RowHeld, row_transaction

MOST_FLOWS: Final = 10
"""Most flows that one claim looks at without finding a job that can be claimed."""

HELD_SECONDS: Final = 1
"""How long a claim waits for a flow that another one holds, where no other flow has anything due."""


def claim_next(*, node: str, lease_token: uuid.UUID) -> Job | None:
    """Claim the job whose turn it is, and return it under a new lease.

    Several workers at once get different jobs, and no flow ever runs more than its slots: they are counted again under
    the lock of the flow. Nobody waits for a flow that another worker holds while a different one has something due.

    :param lease_token: name of the new lease.
    :returns: ``None`` where nothing is due, or only in flows whose slots are taken.
    """
    if job := _claim_of_any(node, lease_token):
        return job
    # A process that died at the wrong moment may have left a job that no flow knows of.
    return _claim_of_any(node, lease_token) if Flow.objects.repair() else None


def _claim_of_any(node: str, lease_token: uuid.UUID) -> Job | None:
    if connections[alias()].features.has_select_for_update_skip_locked:
        Flow.objects.wake()
    passed_over: list[str] = []
    for waits in (False, True):
        while len(passed_over) < MOST_FLOWS:
            try:
                key, job = _claim_of_next_flow(node, lease_token, passed_over, waits=waits)
            except RowHeld:
                return None
            if job is not None:
                return job
            if key is None:
                break
            passed_over.append(key)
    return None


def _claim_of_next_flow(
    node: str, lease_token: uuid.UUID, passed_over: list[str], *, waits: bool
) -> tuple[str | None, Job | None]:
    """Return the flow whose turn it is, and the job that was claimed of it; ``None`` where there is none.

    :param passed_over: keys of flows that had nothing to claim.
    :param waits: whether to wait for a flow that another worker holds.
    :raises RowHeld: it took too long.
    """
    using = alias()
    connection = connections[using]
    with row_transaction(using, read_committed=True):
        if not connection.features.has_select_for_update_skip_locked:
            # The first statement writes, and so takes SQLite's one lock before anything is read.
            Flow.objects.wake()
        elif waits and connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = '{HELD_SECONDS}s'")
        free = Flow.objects.with_free_slot().exclude(pk__in=passed_over)
        if waits:
            # By its key: a query that waits may lock a row, find it changed and lock the next, up to a deadlock.
            free = Flow.objects.filter(pk=free.values_list("pk", flat=True).first())
        flow = free.select_for_update(skip_locked=not waits, no_key=True).first()
        if flow is None:
            return None, None
        job = _claim_of(flow, node, lease_token)
        Flow.objects.charge(flow.pk, cost=0 if job is None else 1)
        return flow.pk, job


def _claim_of(flow: Flow, node: str, lease_token: uuid.UUID) -> Job | None:
    """Claim the oldest due job of a flow whose row is locked; none where its slots are taken by now."""
    # A statement of its own: it sees what was committed before the lock was got.
    if flow.slots is not None and Job.objects.filter(flow=flow.pk, state=JobState.RUNNING).count() >= flow.slots:
        return None
    due = Job.objects.oldest_due().filter(flow=flow.pk, attempt__lt=F("max_attempts"))
    if connections[due.db].features.has_select_for_update_skip_locked:
        rows = due.select_related("repository").defer("repository__token_ciphertext")
        due = rows.select_for_update(skip_locked=True, of=("self", "repository"))
    found = due.first()
    return None if found is None else Job.objects.claim(found.pk, node=node, lease_token=lease_token)
