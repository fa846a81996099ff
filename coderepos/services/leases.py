"""How long a worker may take a job for its own, and what it does while the database fails.

A job is owned by a lease in the database. A worker that can't reach the database does not know whether it still has
it, so it counts from the last renewal that succeeded, and gives up some seconds before the lease can be anybody else's.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connections

from coderepos.git.results import Progress
from coderepos.models import Job, LeaseLost
from coderepos.models.job import LEASE_SECONDS

SAFE_SECONDS: Final = LEASE_SECONDS - 10
"""How long after a renewal the lease is ours without asking; the rest is for ending the children and removing."""

CLAIM_SECONDS: Final = 30
"""How long a claim is tried while the database fails; afterwards the next round of upkeep notifies again."""

RENEW_SECONDS: Final = 10
PROGRESS_SECONDS: Final = 1
PAUSE_SECONDS: Final = 0.5
"""Pause between two tries."""

DATABASE_FAILURES: Final = (OperationalError, InterfaceError, InternalError)
"""What a restart, a fail-over, a lost connection or a locked SQLite file looks like."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Lease:
    """A claimed job and the time for which it is safely ours.

    :param since_seconds: :func:`now_seconds` before the claim was sent.
    """

    def __init__(self, job: Job, since_seconds: float) -> None:
        self.job: Final = job
        self._safe_until = since_seconds + SAFE_SECONDS

    def check(self) -> None:
        """Make sure that nobody else can own the job yet.

        :raises LeaseLost: too much time has passed since the last renewal.
        """
        if now_seconds() >= self._safe_until:
            raise LeaseLost

    def renew_once(self, **values: Any) -> None:
        """Extend the lease by one try, with values as of :meth:`Job.renew`.

        :raises LeaseLost: it is no longer ours.
        :raises django.db.Error: the database fails.
        """
        began = now_seconds()
        self.job.renew(**values)
        self._safe_until = began + SAFE_SECONDS

    def renew(self) -> None:
        """Extend the lease, and bear failures of the database.

        :raises LeaseLost: it is no longer ours.
        """
        self.persist(self.renew_once)

    def persist(self, operation: Callable[[], Result]) -> Result:
        """Carry out an operation on the database, again and again while that fails and the lease is safe.

        :param operation: may be carried out twice: after an error nobody knows whether it was committed.
        :raises LeaseLost: the lease is no longer safe.
        """
        self.check()
        try:
            return bear(operation, until_seconds=lambda: self._safe_until)
        except DATABASE_FAILURES as error:
            raise LeaseLost from error


class Heartbeat:
    """Renews the lease and writes progress, at most once a second when something moved, every ten seconds anyway."""

    def __init__(self, lease: Lease) -> None:
        self._lease: Final = lease
        self._written: dict[str, Any] = {}
        self._written_at = time.monotonic()

    def on_progress(self, progress: Progress) -> None:
        """Take note of one sign of life; a failure of the database waits for the next one.

        :raises LeaseLost: the job is no longer ours, or not safely so.
        """
        values = asdict(progress)
        due_seconds = PROGRESS_SECONDS if values != self._written else RENEW_SECONDS
        if self._written and time.monotonic() - self._written_at < due_seconds:
            return
        try:
            self._lease.renew_once(progress=values, bytes_received=progress.received_bytes)
        except DATABASE_FAILURES as error:
            _recover(error)
            self._lease.check()
        else:
            self._written, self._written_at = values, time.monotonic()


def claim(job_id: uuid.UUID, *, node: str) -> Lease | None:
    """Claim a job, and bear failures of the database for some time.

    :returns: ``None`` where it is not to be had.
    :raises django.db.Error: the database still fails.
    """
    began = now_seconds()
    token = uuid.uuid4()
    job = bear_for(CLAIM_SECONDS, lambda: Job.objects.claim(job_id, node=node, lease_token=token))
    return None if job is None else Lease(job, began)


def bear_for(seconds: float, operation: Callable[[], Result]) -> Result:
    """Return what ``operation`` returns; failures of the database are borne for some seconds.

    :raises django.db.Error: the database still fails.
    """
    deadline = now_seconds() + seconds
    return bear(operation, until_seconds=lambda: deadline)


def bear(operation: Callable[[], Result], *, until_seconds: Callable[[], float]) -> Result:
    """Return what ``operation`` returns; while the database fails it is tried again, on a fresh connection each time.

    :param until_seconds: end of the tries, as of :func:`now_seconds`.
    :raises django.db.Error: the database still fails then.
    """
    while True:
        try:
            return operation()
        except DATABASE_FAILURES as error:
            if now_seconds() >= until_seconds():
                raise
            _recover(error)
        time.sleep(PAUSE_SECONDS)


def now_seconds() -> float:
    """Return the time of a clock that never jumps, and goes on while the process or the machine stands still."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _recover(error: Exception) -> None:
    logger.warning("The database fails, which is borne for a while: %s: %s", type(error).__name__, error)
    for connection in connections.all(initialized_only=True):
        connection.close_if_unusable_or_obsolete()
