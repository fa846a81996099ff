"""What a worker calls: unpack, call a service, nothing else."""

from __future__ import annotations

import uuid

from coderepos import services


def run_job(job_id: str) -> str:
    """Work on one job if it is free; returns what became of it."""
    return services.run_clone(job_id=uuid.UUID(job_id))


def reap() -> str:
    """Take jobs from silent workers, and notify of those that wait: the second way beside the workers' own upkeep."""
    return services.reap()


def sweep() -> str:
    """Remove what no row of the database knows from this machine's sandbox root."""
    return services.sweep_if_due(services.register_node())
