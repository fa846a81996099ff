"""Cancelling what is under way for a repository."""

from __future__ import annotations

import logging
from typing import Any

from coderepos import signals
from coderepos.access import Action
from coderepos.exceptions import Cancelled, InvalidState
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Job, alias
from coderepos.models.locking import busy_reported, row_transaction
from coderepos.services.afterwards import announce, published
from coderepos.services.disk.purging import request_purge
from coderepos.services.repositories.arguments import own_copy
from coderepos.services.trail import require

logger = logging.getLogger(__name__)


@busy_reported()
def cancel_repository(*, user: Any, repository: CodeRepository) -> Job:
    """Cancel the job of a repository that is queued or running.

    One that is queued never runs. A worker that runs it ends its children within two seconds, and removes what they
    built. The repository is FAILED with ``cancelled``; one that is COMPLETED stays so, with the version that it has.

    :returns: the cancelled job.
    :raises PermissionDenied: the user's role does not allow it.
    :raises InvalidState: nothing is under way, or it has just ended.
    :raises NotFound: the repository was deleted.
    :raises DatabaseBusy: another transaction was in the way; nothing was changed.
    """
    require(user, Action.CANCEL, repository)
    with row_transaction(alias()):
        job = Job.objects.unfinished().filter(repository_id=repository.pk).first()
        if job is None or not job.cancel(Cancelled()):
            status = own_copy(repository).clone_status
            raise InvalidState(f"There is nothing to cancel: no work on this repository is under way, it is {status}.")
        AuditEntry.objects.record(AuditEvent.CANCELLED, repository=job.repository, actor=user, job_id=job.pk)
        request_purge(job.repository)
        announce(
            signals.repository_cancelled,
            repository_id=job.repository_id,
            project_id=job.repository.project_id,
            job_id=job.pk,
            **published(job.repository),
        )
        job = Job.objects.select_related("repository").get(pk=job.pk)
    logger.info("job %s: cancelled", job.pk)
    return job
