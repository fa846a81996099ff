"""Has versions restored that are in the storage for packs and on no disk, because somebody wants to read them."""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta
from typing import Final

from django.db import IntegrityError
from django.db.models.functions import Now

from coderepos import queues
from coderepos.conf import conf
from coderepos.models import CodeRepository, Job, JobKind, JobState, alias
from coderepos.models.locking import RowHeld, row_transaction
from coderepos.services import turns
from coderepos.services.packs.relocating import LIMITS

AGAIN_SECONDS: Final = 60
"""How long after a restore that failed for good none is queued, however often somebody asks."""

logger = logging.getLogger(__name__)


def recall(repository_id: uuid.UUID) -> None:
    """Queue a restore of a repository whose version no disk has, unless a job of it is unfinished or has just failed.

    The job takes its turn among those of the project. Inside of a transaction of the caller's it is queued once that
    commits.
    """
    if _is_too_early(repository_id):
        return
    try:
        with row_transaction(alias(), read_committed=True):
            repository = CodeRepository.objects.without_token().filter(pk=repository_id).first()
            if repository is None or not repository.lock_stored_only() or _is_too_early(repository_id):
                return
            job = Job.objects.create(
                repository=repository,
                kind=JobKind.RESTORE,
                flow=_flow_of(repository),
                max_attempts=1 + conf.CLONE_MAX_RETRIES,
            )
            turns.join(job)
            queues.enqueue(job)
    except (IntegrityError, RowHeld):  # somebody else is at it
        return
    logger.info("repository %s: it is on no disk; restore %s is queued", repository_id, job.pk)


def _is_too_early(repository_id: uuid.UUID) -> bool:
    jobs = Job.objects.filter(repository_id=repository_id)
    just_failed = jobs.filter(
        kind=JobKind.RESTORE, state=JobState.FAILED, finished_at__gt=Now() - timedelta(seconds=AGAIN_SECONDS)
    )
    return jobs.unfinished().exists() or just_failed.exists()


def _flow_of(repository: CodeRepository) -> str:
    """Return the flow of the last job that a user asked for: the limits of the host need one to say which it is."""
    asked_for = Job.objects.filter(repository_id=repository.pk).exclude(flow=LIMITS.flow)
    last = asked_for.order_by("-created_at").values_list("flow", flat=True).first()
    return last or str(repository.project_id)
