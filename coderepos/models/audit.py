"""Audit trail of repositories and their tokens: append-only rows."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol, Self

from django.db import models
from django.db.models.functions import Now

from coderepos.git.text import display_text, is_display_text
from coderepos.models.database import PrimaryQuerySet


class Subject(Protocol):
    """The repository that an entry is about."""

    @property
    def pk(self) -> Any:
        """Primary key."""

    @property
    def project_id(self) -> Any:
        """Primary key of its project."""


class AuditEvent(models.TextChoices):
    """What happened."""

    CONNECTED = "connected"
    CONNECT_REJECTED = "connect_rejected"
    """A connect call was refused, and there is no repository; or a change of what is connected was."""

    CHANGED = "changed"
    """The ref, the depth or the user name of the token of a repository was changed."""

    CANCELLED = "cancelled"
    """A job that was queued or running was cancelled."""

    DENIED = "denied"
    """The role of a user did not allow a call about a repository."""

    TOKEN_OPENED = "token_opened"  # noqa: S105  the name of an event
    TOKEN_REPLACED = "token_replaced"  # noqa: S105  the name of an event
    """The token was replaced."""

    TOKEN_REFUSED = "token_refused"  # noqa: S105  the name of an event
    """The Git host refused the stored token, or one that was to replace it."""

    TOKEN_DROPPED = "token_dropped"  # noqa: S105  the name of an event
    """The token was dropped, because the URL of its repository was changed to another host."""

    DECRYPT_FAILED = "decrypt_failed"
    REKEYED = "rekeyed"
    """Tokens were moved under another master key; the entry is about all repositories."""

    CLEANED = "cleaned"
    DISCONNECTED = "disconnected"


class AuditEntryQuerySet(PrimaryQuerySet["AuditEntry"]):
    """Queries of the trail, and the one way to write to it."""

    def record(
        self,
        event: AuditEvent,
        *,
        repository: Subject | None = None,
        project_id: object = None,
        actor: Any = None,
        job_id: uuid.UUID | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> AuditEntry:
        """Add an entry.

        :param project_id: of an event without a repository.
        :param actor: user that asked for it; ``None`` for what a worker, a command or a shell did.
        :param details: JSON values; neither a secret nor text of the remote. Unprintable characters are escaped.
        """
        if repository is not None:
            project_id = repository.project_id
        return self.create(
            event=event,
            actor_id="" if actor is None or actor.pk is None else str(actor.pk),
            actor_name="" if actor is None else actor.get_username(),
            project_id="" if project_id is None else str(project_id),
            repository_id=None if repository is None else repository.pk,
            job_id=job_id,
            details={name: _shown(value) for name, value in (details or {}).items()},
        )

    def newest_first(self) -> Self:
        """Order by time; the id breaks ties, which keeps pages stable."""
        return self.order_by("-created_at", "-id")

    def update(self, **kwargs: Any) -> NoReturn:
        """Refuse.

        :raises TypeError: always; asynchronous and bulk updates come here too.
        """
        raise _unchangeable()

    update.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method

    def delete(self) -> NoReturn:
        """Refuse.

        :raises TypeError: always.
        """
        raise _unchangeable()

    delete.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method
    delete.queryset_only = True  # type: ignore[attr-defined]  # Django reads it off the method

    def bulk_update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse, even for an empty list.

        :raises TypeError: always.
        """
        raise _unchangeable()

    bulk_update.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method

    def bulk_create(self, objs: Any, *args: Any, update_conflicts: bool = False, **kwargs: Any) -> list[AuditEntry]:
        """Add many entries.

        :raises TypeError: ``update_conflicts`` is set, which would change existing ones.
        """
        if update_conflicts:
            raise _unchangeable()
        return super().bulk_create(objs, *args, **kwargs)

    bulk_create.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method


class AuditEntry(models.Model):
    """One event. Users, projects, repositories and jobs are kept as values, so that the entry outlives them all."""

    id = models.BigAutoField(primary_key=True)
    event = models.TextField(choices=AuditEvent.choices)
    actor_id = models.TextField(default="")
    """Primary key of the user as text; empty for what a worker, a command or a shell did."""

    actor_name = models.TextField(default="")
    created_at = models.DateTimeField(db_default=Now())
    project_id = models.TextField(default="")
    repository_id = models.UUIDField(null=True)
    job_id = models.UUIDField(null=True)
    details = models.JSONField(default=dict)

    objects = AuditEntryQuerySet.as_manager()

    class Meta:
        db_table = "code_repo_audit"
        base_manager_name = "objects"
        default_permissions = ("view",)
        verbose_name = "audit entry"
        verbose_name_plural = "audit trail"
        indexes = [
            models.Index(fields=["repository_id", "-created_at"], name="code_repo_audit_repository"),
            models.Index(fields=["project_id", "-created_at"], name="code_repo_audit_project"),
            models.Index(fields=["-created_at", "-id"], name="code_repo_audit_newest"),
            models.Index(fields=["event", "-created_at"], name="code_repo_audit_event"),
            models.Index(fields=["actor_name", "-created_at"], name="code_repo_audit_actor"),
            models.Index(fields=["job_id"], name="code_repo_audit_job"),
        ]

    def __str__(self) -> str:
        return f"{self.event} {self.pk}"

    def save(self, *, using: str | None = None, **kwargs: Any) -> None:
        """Insert the entry.

        :raises TypeError: it is in the database already.
        """
        if not self._state.adding:
            raise _unchangeable()
        super().save(force_insert=True, using=using)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse.

        :raises TypeError: always.
        """
        raise _unchangeable()


def _unchangeable() -> TypeError:
    return TypeError("The audit trail is added to; its entries are neither changed nor deleted.")


def _shown(value: Any) -> Any:
    """Return a text with unprintable characters escaped: a ref may reverse the text direction of a whole page."""
    if not isinstance(value, str) or is_display_text(value):
        return value
    return display_text(value.encode("utf-8", "replace"), max_characters=10 * len(value))
