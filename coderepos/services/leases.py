"""The lease of a worker on a job, and retries while the database fails.

A job is owned by a lease in the database. A worker that can't reach the database does not know whether it still holds
the lease, so it counts from the last successful renewal, and gives up some seconds before another worker can claim it.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connections

from coderepos.git.results import Progress
from coderepos.models import Job, LeaseLost
from coderepos.models.fair_claim import claim_next
from coderepos.models.job_states import LEASE_SECONDS

SAFE_SECONDS: Final = LEASE_SECONDS - 10
"""How long after a renewal the lease is certainly ours; the rest is for ending the children and cleaning up."""

CLAIM_SECONDS: Final = 30
"""How long a claim is retried while the database fails; afterwards the next round of upkeep enqueues the job again."""

RENEW_SECONDS: Final = 10
LOOK_SECONDS: Final = 0.8
"""How long a worker may go without asking whether its job is still its own. Less than the second between two reports of
a clone in which nothing moves, so that each of them asks: a job that is cancelled ends with the next one."""

PAUSE_SECONDS: Final = 0.5
"""Pause between two attempts of a database operation."""

DATABASE_FAILURES: Final = (OperationalError, InterfaceError, InternalError)
"""Errors that a restart, a fail-over, a lost connection or a locked SQLite file cause."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Lease:
    """A claimed job, and until when its lease is certainly ours.

    :param since_seconds: :func:`now_seconds` before the claim was sent.
    """

    def __init__(self, job: Job, since_seconds: float) -> None:
        self.job: Final = job
        self._safe_until = since_seconds + SAFE_SECONDS

    def check(self) -> None:
        """Make sure that no other worker can own the job yet.

        :raises LeaseLost: too much time has passed since the last renewal.
        """
        if now_seconds() >= self._safe_until:
            raise LeaseLost

    def look(self) -> None:
        """Ask once whether the lease is still ours, which extends it by nothing.

        :raises LeaseLost: it is not: another worker has it, or the job was cancelled.
        :raises django.db.Error: the database fails.
        """
        self.check()
        if not self.job.is_owned():
            raise LeaseLost

    def renew_once(self, **values: Any) -> None:
        """Try once to extend the lease, with values as of :meth:`Job.renew`.

        :raises LeaseLost: it is no longer ours.
        :raises django.db.Error: the database fails.
        """
        began = now_seconds()
        self.job.renew(**values)
        self._safe_until = began + SAFE_SECONDS

    def renew(self) -> None:
        """Extend the lease, retrying while the database fails.

        :raises LeaseLost: it is no longer ours.
        """
        self.persist(self.renew_once)

    def persist(self, operation: Callable[[], Result]) -> Result:
        """Run a database operation, retrying while the database fails and the lease is safe.

        :param operation: may run twice: after an error it is not known whether it was committed.
        :raises LeaseLost: the lease is no longer safe.
        """
        self.check()
        try:
            return retry_until(operation, deadline_seconds=lambda: self._safe_until)
        except DATABASE_FAILURES as error:
            raise LeaseLost from error


class Heartbeat:
    """Asks once a second whether the job is still ours, and writes what moved, or after ten seconds anything."""

    def __init__(self, lease: Lease) -> None:
        self._lease: Final = lease
        self._written: dict[str, Any] = {}
        self._written_at = self._looked_at = -math.inf

    def on_progress(self, progress: Progress) -> None:
        """Handle one progress report; after a database failure the next one tries again.

        :raises LeaseLost: the job is no longer ours, or not safely so.
        """
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        values = asdict(progress)
        try:
            if values != self._written or now - self._written_at >= RENEW_SECONDS:
                self._lease.renew_once(progress=values, bytes_received=progress.received_bytes)
                self._written, self._written_at = values, now
            else:
                self._lease.look()
        except DATABASE_FAILURES as error:
            _recover(error)
            self._lease.check()
        else:
            self._looked_at = now


def claim(job_id: uuid.UUID, *, node: str) -> Lease | None:
    """Claim a job for a notification of ``job_id``, retrying for :data:`CLAIM_SECONDS` while the database fails.

    A notification is the right to one job: to the one that it names where a worker has lost it, else to the one whose
    turn it is.

    :returns: ``None`` if there is none.
    :raises django.db.Error: the database still fails.
    """
    began = now_seconds()
    token = uuid.uuid4()
    sent = False

    def once() -> Job | None:
        nonlocal sent
        claimed = Job.objects.running_under(token) if sent else None
        sent = True
        return (
            claimed
            or Job.objects.take_over(job_id, node=node, lease_token=token)
            or claim_next(node=node, lease_token=token)
        )

    job = retry_for(CLAIM_SECONDS, once)
    return None if job is None else Lease(job, began)


def retry_for(seconds: float, operation: Callable[[], Result]) -> Result:
    """Return the result of ``operation``, retrying for ``seconds`` while the database fails.

    :raises django.db.Error: the database still fails.
    """
    deadline = now_seconds() + seconds
    return retry_until(operation, deadline_seconds=lambda: deadline)


def retry_until(operation: Callable[[], Result], *, deadline_seconds: Callable[[], float]) -> Result:
    """Return the result of ``operation``, retrying on a fresh connection while the database fails.

    :param deadline_seconds: returns the time of :func:`now_seconds` at which to give up.
    :raises django.db.Error: the database still fails then.
    """
    while True:
        try:
            return operation()
        except DATABASE_FAILURES as error:
            if now_seconds() >= deadline_seconds():
                raise
            _recover(error)
        time.sleep(PAUSE_SECONDS)


def now_seconds() -> float:
    """Return the time of a monotonic clock that also counts while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _recover(error: Exception) -> None:
    logger.warning("The database fails and will be tried again: %s: %s", type(error).__name__, error)
    for connection in connections.all(initialized_only=True):
        connection.close_if_unusable_or_obsolete()
