"""The tasks as Django's own tasks, for the workers of any backend of ``TASKS``."""

from __future__ import annotations

try:
    from django.tasks import task
except ImportError:  # before Django 6.0
    from django_tasks import task  # type: ignore[no-redef]

from coderepos import tasks
from coderepos.conf import conf


@task(backend=conf.QUEUE_BACKEND, queue_name=conf.QUEUE_NAME or "default")
def run_job(job_id: str) -> str:
    """See :func:`coderepos.tasks.run_job`."""
    return tasks.run_job(job_id)
