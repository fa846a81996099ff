"""Looks at rows and at /health all the time, as an operator's monitor does, and keeps what it saw."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import Error, connection
from django.db.models.functions import Now
from django.test import RequestFactory

from coderepos.api.health import HealthView
from coderepos.models import Job, JobState

LOOK_SECONDS = 0.5


@dataclass
class Seen:
    """What was seen of one job."""

    lease_token: uuid.UUID | None = None
    heartbeat_at: datetime | None = None


@dataclass
class Watch:
    """A thread that looks twice a second."""

    recovery_seconds: list[float] = field(default_factory=list)
    """From the last heartbeat of a worker that lost its job until the job was due again: more than since its death.

    How long it waits from then on depends on what else is due; that work goes on is in :attr:`idle_seconds`.
    """

    idle_seconds: list[float] = field(default_factory=list)
    """How long due jobs were there and none of any kind was claimed."""

    red: list[tuple[float, Any]] = field(default_factory=list)
    """When /health was not 200, and what it said."""

    looks: int = 0
    most_disk_bytes: int = 0
    """The most that clones took and jobs had reserved on one machine at one moment."""

    waited: set[uuid.UUID] = field(default_factory=set)
    """Jobs that were seen to wait for room on the disk."""

    def __enter__(self) -> Watch:
        self._jobs: dict[uuid.UUID, Seen] = {}
        self._claims = 0
        self._idle_since = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self._look()
            except Error:
                connection.close()
        connection.close()

    def _look(self) -> None:
        self.looks += 1
        answer = HealthView.as_view()(RequestFactory().get("/health"))
        if answer.status_code != 200:
            self.red.append((time.monotonic(), answer.data))
        self._look_at_disk()
        jobs = Job.objects.annotate(now=Now()).only(
            "state", "lease_token", "heartbeat_at", "attempt", "next_attempt_at", "waits_for_disk_since"
        )
        claims, due = 0, False
        for job in jobs:
            claims += job.attempt
            due = due or (job.state == JobState.QUEUED and not waits(job))
            self._compare(job)
            self.waited |= {job.pk} if job.waits_for_disk_since else set()
        if claims != self._claims or not due:
            self.idle_seconds.append(time.monotonic() - self._idle_since)
            self._claims, self._idle_since = claims, time.monotonic()

    def _look_at_disk(self) -> None:
        with connection.cursor() as cursor:
            # One statement: what a job publishes is counted once.
            cursor.execute(
                "SELECT sum(bytes) FROM ("
                "SELECT node, reserved_bytes AS bytes FROM code_repo_jobs WHERE state = 'RUNNING' UNION ALL "
                "SELECT node, repository_size_mb * 1000000 FROM code_repos "
                "WHERE clone_status IN ('COMPLETED', 'CLEANING')) AS taken WHERE node <> '' GROUP BY node"
            )
            most = max((sum_bytes or 0 for (sum_bytes,) in cursor.fetchall()), default=0)
        self.most_disk_bytes = max(self.most_disk_bytes, int(most))

    def _compare(self, job: Any) -> None:
        seen = self._jobs.setdefault(job.pk, Seen())
        if seen.heartbeat_at:
            if job.state == JobState.QUEUED and not waits(job):
                self.recovery_seconds.append((job.now - seen.heartbeat_at).total_seconds())
            elif job.state == JobState.RUNNING and job.lease_token != seen.lease_token:
                # It was due and claimed between two looks.
                self.recovery_seconds.append((job.heartbeat_at - seen.heartbeat_at).total_seconds())
        is_running = job.state == JobState.RUNNING
        seen.heartbeat_at, seen.lease_token = (job.heartbeat_at, job.lease_token) if is_running else (None, None)


def waits(job: Any) -> bool:
    """Return whether a job, read with the database's time, is not due yet."""
    return job.next_attempt_at is not None and bool(job.next_attempt_at > job.now)
