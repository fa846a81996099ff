"""Turns of workers: what tells a flow of its jobs, and what running them costs it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction

from coderepos import queues
from coderepos.limits import Limits
from coderepos.models import Flow, Job, alias
from coderepos.services.afterwards import failures_logged


def join(job: Job, limits: Limits | None = None) -> None:
    """Let the flow of a job know of it once the transaction commits; the upkeep does so where that fails.

    After the commit, so that a long transaction of the caller's never holds a flow that workers wait for.

    :param limits: weight and slots that the flow has from now on; those that it has where ``None``.
    """

    def tell() -> None:
        Flow.objects.join(job, limits)

    transaction.on_commit(tell, using=alias(), robust=True)


@contextmanager
def charged(job: Job) -> Iterator[None]:
    """Run an attempt of a job in a ``with`` block, charge its flow for the time, and tell it if the job waits again.

    A notification that came while all slots of the flow were taken is spent, so its next job gets another one.
    """
    began = time.monotonic()
    try:
        yield
    finally:
        with failures_logged("job %s: its flow can't be charged; others get their turn all the same", job.pk):
            Flow.objects.charge_running_time(job.flow, seconds=time.monotonic() - began)
            Flow.objects.join(job)
            if Flow.objects.with_free_slot().filter(pk=job.flow, slots__isnull=False).exists():
                _notify_of_next(job.flow)


def _notify_of_next(flow: str) -> None:
    if job := Job.objects.oldest_due().filter(flow=flow).first():
        queues.enqueue(job)
