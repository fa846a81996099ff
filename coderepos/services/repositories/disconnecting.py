"""Disconnecting a repository, and what follows its deletion by an admin, a cascade or a shell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from django.db import IntegrityError, connections
from django.db.models import F, ProtectedError, Q, RestrictedError

from coderepos import signals
from coderepos.access import Action
from coderepos.exceptions import BUSY_SECONDS, Cancelled, DatabaseBusy, InvalidState, NotFound
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Job, StoredPack, alias
from coderepos.models.locking import busy_reported, row_transaction
from coderepos.services.afterwards import announce
from coderepos.services.disk.purging import request_purge
from coderepos.services.repositories.arguments import own_copy
from coderepos.services.trail import require

_actor: Final[ContextVar[Any]] = ContextVar("coderepos_actor", default=None)


@busy_reported()
def disconnect_repository(*, user: Any, repository: CodeRepository) -> None:
    """Delete a repository with its token and its jobs, in any state; its machines remove the sandbox within seconds.

    A job that is running on it ends, and removes what it built.

    :raises PermissionDenied: the user's role does not allow it.
    :raises NotFound: it was deleted.
    :raises InvalidState: a row of the host protects it; nothing was changed.
    :raises DatabaseBusy: another transaction was in the way; nothing was changed.
    """
    require(user, Action.DELETE, repository)
    try:
        with disconnecting_as(user), row_transaction(alias()):
            _delete(repository)
    except (ProtectedError, RestrictedError) as error:
        raise InvalidState("Other data of this site depends on the repository, so it cannot be deleted.") from error
    except IntegrityError as error:  # something that refers to it was stored meanwhile
        raise DatabaseBusy(retry_after_seconds=BUSY_SECONDS) from error


def _delete(repository: CodeRepository) -> None:
    """Delete a repository, with the locks in the order in which a publication takes them.

    :raises NotFound: another call deleted it.
    """
    for job in Job.objects.unfinished().filter(repository_id=repository.pk):
        job.cancel(Cancelled())
    if not CodeRepository.objects.filter(pk=repository.pk).update(updated_at=F("updated_at")):
        raise NotFound
    own_copy(repository).delete()


def _lock(repository: CodeRepository, *, using: str) -> None:
    """Lock a repository until the end of the transaction, after its job, as a publication does, and before all else.

    A cascade of the host would begin with rows that others lock last: each of the two would wait for the other.
    """
    if connections[using].features.has_select_for_update:
        jobs = Job.objects.using(using).unfinished().filter(repository_id=repository.pk)
        for rows in (jobs, CodeRepository.objects.using(using).filter(pk=repository.pk)):
            rows.select_for_update().values_list("pk", flat=True).first()


@contextmanager
def disconnecting_as(user: Any) -> Iterator[None]:
    """Name ``user`` in the audit trail as the actor of deletions in a ``with`` block."""
    before = _actor.set(user)
    try:
        yield
    finally:
        _actor.reset(before)


def record_disconnection(repository: CodeRepository, *, using: str) -> None:
    """Audit that a repository is about to be deleted, and have its machines remove its sandbox.

    A job that runs on it finds its row gone, and discards what it built. No file is touched here: a deletion must
    neither fail nor wait because of a disk, and the sandbox is often on another machine or another user's.

    :param using: alias of the database that the row is deleted from; all is written in the same transaction.
    """
    _lock(repository, using=using)
    AuditEntry.objects.using(using).record(
        AuditEvent.DISCONNECTED,
        repository=repository,
        actor=_actor.get(),
        details={"git_url": repository.git_url, "ref": repository.ref, "clone_status": repository.clone_status},
    )
    request_purge(repository, using=using)
    StoredPack.objects.using(using).leave(Q(repository_id=repository.pk))
    announce(
        signals.repository_disconnected,
        using=using,
        repository_id=repository.pk,
        project_id=repository.project_id,
        commit_id=repository.commit_id,
        version=repository.version,
    )
