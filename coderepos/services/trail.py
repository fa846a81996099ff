"""What the audit trail keeps of errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from coderepos import access
from coderepos.access import Action
from coderepos.crypto.redaction import redact
from coderepos.exceptions import CodeReposError, PermissionDenied
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, alias
from coderepos.services.afterwards import failures_logged


def record_failure(
    event: AuditEvent, error: CodeReposError, *, details: Mapping[str, Any] | None = None, **about: Any
) -> None:
    """Add an entry about an error that is raised anyway; where that fails too, the log says so and the error stays.

    :param details: what is kept beside code and figures of the error.
    :param about: further arguments of :meth:`AuditEntryQuerySet.record`.
    """
    with (
        failures_logged("The audit trail misses an entry: %s, %s", event, error.code),
        transaction.atomic(using=alias()),
    ):
        AuditEntry.objects.record(event, details={**(details or {}), **failure(error)}, **about)


def require(user: Any, action: Action, repository: CodeRepository) -> None:
    """Go on where the user may do this; a refusal is written down.

    :raises PermissionDenied: the user's role does not allow it.
    """
    try:
        access.require(user, action, repository.project_id)
    except PermissionDenied as error:
        details = {"action": action.value}
        record_failure(AuditEvent.DENIED, error, repository=repository, actor=user, details=details)
        raise


def failure(error: CodeReposError) -> dict[str, Any]:
    """Return code and figures of an error; texts are fixed ones of ours, and redacted all the same."""
    figures = {name: value for name, value in error.fields.items() if isinstance(value, int | float)}
    texts = {name: redact(value) for name, value in error.fields.items() if isinstance(value, str)}
    return {**figures, **texts, "code": error.code}
