"""Errors in the audit trail."""

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


def audit_failure(
    event: AuditEvent, error: CodeReposError, *, details: Mapping[str, Any] | None = None, **about: Any
) -> None:
    """Add an entry about an error that the caller raises; a failure to do so is logged, and never replaces the error.

    :param details: what is kept beside code and figures of the error.
    :param about: further arguments of :meth:`AuditEntryQuerySet.record`.
    """
    with (
        failures_logged("The audit trail lacks an entry: %s, %s", event, error.code),
        transaction.atomic(using=alias()),
    ):
        AuditEntry.objects.record(event, details={**(details or {}), **error_details(error)}, **about)


def require(user: Any, action: Action, repository: CodeRepository) -> None:
    """Check that the user may do this, and audit a refusal.

    :raises PermissionDenied: the user's role does not allow it.
    """
    try:
        access.require(user, action, repository.project_id)
    except PermissionDenied as error:
        details = {"action": action.value}
        audit_failure(AuditEvent.DENIED, error, repository=repository, actor=user, details=details)
        raise


def error_details(error: CodeReposError) -> dict[str, Any]:
    """Return code and figures of an error; its texts are our own constants, and redacted nonetheless."""
    figures = {name: value for name, value in error.fields.items() if isinstance(value, int | float)}
    texts = {name: redact(value) for name, value in error.fields.items() if isinstance(value, str)}
    return {**figures, **texts, "code": error.code}
