"""What is left to do when a repository goes, whoever deletes it: an admin, a cascade, a shell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from django.db import transaction

from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Node

_actor: Final[ContextVar[Any]] = ContextVar("coderepos_actor", default=None)


@contextmanager
def disconnecting_as(user: Any) -> Iterator[None]:
    """Let the audit trail name ``user`` for what is deleted in a ``with`` block."""
    before = _actor.set(user)
    try:
        yield
    finally:
        _actor.reset(before)


def record_disconnection(repository: CodeRepository, *, using: str) -> None:
    """Write down that a repository is about to be deleted, and have its sandbox removed by the machine that has it.

    A job that runs on it finds its row gone, and discards what it built. No file is touched here: a deletion must not
    fail or wait because of a disk, and the sandbox is often that of another machine or user.

    :param using: alias of the database that the row is deleted from; entry and row go or stay together.
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
