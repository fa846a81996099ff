"""The signs of work that the database shows, and the one definition of a standstill."""

from __future__ import annotations

from dataclasses import dataclass

from coderepos.models import Job, Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Signs:
    """What the database says of the workers of all machines."""

    node_alive: bool
    """A machine finished a round of upkeep lately."""

    job_reported: bool
    """A worker reported on its job lately."""

    job_overdue: bool
    """A job has been due for longer than healthy workers leave one."""

    @property
    def stand_still(self) -> bool:
        """Whether due jobs are not taken. A backlog is no standstill: something runs before it."""
        return self.job_overdue and not self.job_reported

    @property
    def fault(self) -> str | None:
        """What keeps jobs from getting done, or ``None`` where workers are there and take what is due."""
        if not (self.node_alive or self.job_reported):
            return "no worker is alive"
        return "jobs are due, and no worker is working on any" if self.stand_still else None


def read_signs() -> Signs:
    """Return the present signs, by three queries that each stop at the first row."""
    return Signs(
        node_alive=Node.objects.alive().exists(),
        job_reported=Job.objects.with_recent_heartbeat().exists(),
        job_overdue=Job.objects.overdue().exists(),
    )
