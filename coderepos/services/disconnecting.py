"""Disconnecting a repository, and what follows its deletion by an admin, a cascade or a shell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from django.db import transaction

from coderepos.access import Action
from coderepos.exceptions import JobRunning
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Node, alias
from coderepos.models.locking import RowHeld, busy_reported, row_transaction
from coderepos.services.arguments import own_copy
from coderepos.services.trail import require

_actor: Final[ContextVar[Any]] = ContextVar("coderepos_actor", default=None)


@busy_reported()
def disconnect_repository(*, user: Any, repository: CodeRepository) -> None:
    """Delete a repository with its token and its jobs; its machine removes the sandbox within seconds.

    A job that is running on it discards what it builds.

    :raises PermissionDenied: the user's role does not allow it.
    :raises JobRunning: a worker holds the row right now.
    :raises NotFound: it was deleted.
    :raises DatabaseBusy: another transaction was in the way; nothing was changed.
    """
    require(user, Action.DELETE, repository)
    try:
        with disconnecting_as(user), row_transaction(alias()):
            own_copy(repository).delete()
    except RowHeld:
        raise JobRunning from None


@contextmanager
def disconnecting_as(user: Any) -> Iterator[None]:
    """Name ``user`` in the audit trail as the actor of deletions in a ``with`` block."""
    before = _actor.set(user)
    try:
        yield
    finally:
        _actor.reset(before)


def record_disconnection(repository: CodeRepository, *, using: str) -> None:
    """Audit that a repository is about to be deleted, and have its machine sweep its sandbox.

    A job that runs on it finds its row gone, and discards what it built. No file is touched here: a deletion must
    neither fail nor wait because of a disk, and the sandbox is often on another machine or another user's.

    :param using: alias of the database that the row is deleted from; the entry is written in the same transaction.
    """
    AuditEntry.objects.using(using).record(
        AuditEvent.DISCONNECTED,
        repository=repository,
        actor=_actor.get(),
        details={"git_url": repository.git_url, "ref": repository.ref, "clone_status": repository.clone_status},
    )
    node = repository.node

    def sweep_soon() -> None:
        Node.objects.using(using).filter(name=node).update(swept_at=None)

    if node:
        transaction.on_commit(sweep_soon, using=using, robust=True)
