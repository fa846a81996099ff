"""Cleaning: the clone of a repository goes from the disk, its row stays."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from django.db.models import Exists, OuterRef, Q

from coderepos import signals
from coderepos.access import Action
from coderepos.exceptions import InvalidState, JobRunning
from coderepos.models import AuditEntry, AuditEvent, CloneStatus, CodeRepository, Job, Node, Purge, StoredPack, alias
from coderepos.models.locking import busy_reported, row_transaction
from coderepos.services.afterwards import announce
from coderepos.services.disk.purging import request_purge
from coderepos.services.repositories.arguments import own_copy
from coderepos.services.trail import require

BATCH: Final = 500
"""Most repositories that one round of upkeep finishes."""

_CANCEL_FIRST: Final = "Work on this repository is under way; cancel it first, or wait for it to end."

logger = logging.getLogger(__name__)


@busy_reported()
def clean_repository(*, user: Any, repository: CodeRepository) -> CodeRepository:
    """Remove the clone of a repository that is COMPLETED or FAILED from the disk; its row and its token stay.

    The repository is CLEANING until every machine that may hold bytes of it has removed them, usually within seconds,
    then CLEANED; another clone of it may be queued from then on. What is under way is not interrupted.

    :returns: the repository, CLEANING.
    :raises PermissionDenied: the user's role does not allow it.
    :raises JobRunning: a job waits or runs, or it is CLEANING.
    :raises InvalidState: there is nothing to clean.
    :raises NotFound: it was deleted.
    :raises DatabaseBusy: another transaction was in the way; nothing was changed.
    """
    require(user, Action.CLEAN, repository)
    with row_transaction(alias()):
        return start_cleaning(repository, actor=user)


def start_cleaning(
    repository: CodeRepository, *, actor: Any = None, details: Mapping[str, Any] | None = None
) -> CodeRepository:
    """Start to clean a repository, inside a transaction of the caller's that is to end with any error raised here.

    :param actor: user that asked for it; ``None`` for rules of the site.
    :param details: what the audit trail keeps beside the version.
    :returns: the repository, CLEANING.
    :raises JobRunning: a job waits or runs, or it is CLEANING.
    :raises InvalidState: there is nothing to clean.
    :raises NotFound: it was deleted.
    """
    before = own_copy(repository)
    if not repository.begin_cleaning():
        status = own_copy(repository).clone_status
        if status in (CloneStatus.COMPLETED, CloneStatus.FAILED, CloneStatus.CLEANED):
            raise InvalidState(f"There is no clone to remove: the repository is {status}.")
        raise JobRunning(None if status == CloneStatus.CLEANING else _CANCEL_FIRST)
    # The row is locked by now, and whoever queues a job locks it first.
    if Job.objects.unfinished().filter(repository_id=repository.pk).exists():
        raise JobRunning(_CANCEL_FIRST)
    request_purge(before)
    StoredPack.objects.leave(Q(repository_id=repository.pk))
    AuditEntry.objects.record(
        AuditEvent.CLEANED,
        repository=before,
        actor=actor,
        details={"version": before.version, "commit_id": before.commit_id, **(details or {})},
    )
    logger.info("repository %s: to be cleaned", repository.pk)
    return own_copy(repository)


def finish_cleaning() -> int:
    """Make repositories CLEANED of which no machine has anything to remove any more; return how many.

    Machines whose rows were removed are not waited for.
    """
    Purge.objects.exclude(node__in=Node.objects.values("name")).delete()
    purges = Purge.objects.filter(repository_id=OuterRef("pk"))
    cleaning = CodeRepository.objects.without_token().filter(~Exists(purges), clone_status=CloneStatus.CLEANING)
    return sum(_finish(repository) for repository in cleaning[:BATCH])


def _finish(repository: CodeRepository) -> bool:
    if not repository.end_cleaning():
        return False
    logger.info("repository %s: cleaned", repository.pk)
    announce(
        signals.repository_cleaned,
        repository_id=repository.pk,
        project_id=repository.project_id,
        commit_id=repository.commit_id,
        version=_cleaned_version(repository),
    )
    return True


def _cleaned_version(repository: CodeRepository) -> str:
    """Return the version that was cleaned; readers lost it when that began, and the row with it."""
    entries = AuditEntry.objects.filter(repository_id=repository.pk, event=AuditEvent.CLEANED).newest_first()
    details = entries.values_list("details", flat=True).first() or {}
    return str(details.get("version", ""))
