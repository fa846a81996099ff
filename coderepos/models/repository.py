"""A connected repository and its state transitions."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Self

from django.conf import settings
from django.db import models, router, transaction
from django.db.models.functions import Now
from django.db.models.lookups import Exact

from coderepos.conf import project_model_label
from coderepos.crypto.fields import EncryptedTokenField, SealedToken
from coderepos.crypto.message import Envelope
from coderepos.crypto.rows import SealedTokenModel, SealedTokenQuerySet
from coderepos.crypto.secret import Secret
from coderepos.engine import has_origin, network_policy
from coderepos.exceptions import TokenUndecryptable
from coderepos.git.platforms import platform_of
from coderepos.git.text import display_text
from coderepos.git.url import GitUrl, parse_git_url, read_git_url
from coderepos.models.audit import AuditEntry, AuditEvent
from coderepos.models.database import PrimaryQuerySet
from coderepos.models.locking import row_transaction
from coderepos.models.token_status import TokenStatus, database_time, token_status


class CloneStatus(models.TextChoices):
    """State of a repository."""

    PENDING = "PENDING"
    CLONING = "CLONING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CLEANING = "CLEANING"
    CLEANED = "CLEANED"


WORKER_FIELDS: Final = (
    "clone_status",
    "sandbox_path",
    "version",
    "node",
    "commit_id",
    "ref_name",
    "substitutions",
    "substituted_paths",
    "repository_size_mb",
    "error_code",
    "error_message",
    "cloned_at",
    "updated_at",
)
"""Fields that workers write at any time: a save of a row writes only those of them that were assigned."""

RESTARTABLE: Final = (CloneStatus.FAILED, CloneStatus.CLEANED)


class CodeRepositoryQuerySet(  # type: ignore[override]  # the plugin sees a manager of its own in each base
    SealedTokenQuerySet["CodeRepository"], PrimaryQuerySet["CodeRepository"]
):
    """Queries of repositories, none of which can point one to another host without dropping its token."""

    def in_projects(self, projects: models.QuerySet[Any]) -> Self:
        """Repositories of any of ``projects``, a queryset that becomes a sub-query."""
        return self.filter(project__in=projects)

    def without_token(self) -> Self:
        """Defer the sealed token, which no list needs."""
        return self.defer("token_ciphertext")

    def with_token_status(self) -> Self:
        """Annotate :class:`TokenStatus` as ``token_status``."""
        return self.annotate(token_status=token_status())

    def newest_first(self) -> Self:
        """Order by creation; the id breaks ties, which keeps pages stable."""
        return self.order_by("-created_at", "id")

    def update(self, **kwargs: Any) -> int:
        """Update anything but the URL, whose change :meth:`CodeRepository.save` has to see.

        :raises ValueError: ``git_url`` is named; ``bulk_update`` comes here too.
        """
        if "git_url" in kwargs:
            raise ValueError("The URL is changed by save() only: a token does not follow it to another host.")
        return super().update(**kwargs)

    update.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method

    def bulk_create(
        self,
        objs: Iterable[CodeRepository],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        update_fields: Collection[str] | None = None,
        unique_fields: Collection[str] | None = None,
    ) -> list[CodeRepository]:
        """Insert many rows; ``url_key`` and ``platform`` follow the URL of each.

        :raises InvalidGitUrl: the URL of a row is not usable.
        :raises ValueError: the URL of an existing row would be changed on a conflict.
        """
        if "git_url" in (update_fields or ()):
            raise ValueError("The URL is changed by save() only: a token does not follow it to another host.")
        objs = list(objs)
        for row in objs:
            row.set_url_fields()
            row.update_has_token()
        return super().bulk_create(
            objs,
            batch_size=batch_size,
            ignore_conflicts=ignore_conflicts,
            update_conflicts=update_conflicts,
            update_fields=update_fields,
            unique_fields=unique_fields,
        )

    bulk_create.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method

    def bulk_update(self, objs: Iterable[CodeRepository], fields: Iterable[str], batch_size: int | None = None) -> int:
        """Update many rows; whether there is a token is written with it."""
        rows, names = tuple(objs), list(fields)
        if "token_ciphertext" in names:
            names += [] if "has_token" in names else ["has_token"]
            for row in rows:
                row.update_has_token()
        return super().bulk_update(rows, names, batch_size=batch_size)

    bulk_update.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method


class CodeRepository(SealedTokenModel):
    """One Git repository at one ref, connected to one project.

    ``clone_status`` is written by the transition methods only: each is one conditional UPDATE that returns whether it
    won. A save leaves it, and all that a worker writes, as they are unless they were assigned.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project: models.ForeignKey[Any, Any] = models.ForeignKey(
        project_model_label(), on_delete=models.CASCADE, related_name="code_repositories"
    )
    git_url = models.TextField()
    url_key = models.TextField(editable=False)
    """Normal form of the URL, by which a repository is recognised."""

    ref = models.TextField(default="", blank=True)
    """Branch, tag or commit that was asked for; empty for the remote's default branch."""

    depth = models.PositiveIntegerField(null=True, blank=True)
    """Commits of history to keep; all when null."""

    username = models.TextField(default="", blank=True)
    """User name that goes with the token, where the platform's default is not wanted."""

    platform = models.TextField(default="generic", editable=False)
    token_ciphertext = EncryptedTokenField(
        kid_field="token_kid", origin_field="git_url", origin_of="coderepos.git.url.origin_of"
    )
    token_kid = models.TextField(blank=True, editable=False)
    has_token = models.BooleanField(default=True, editable=False)
    """Whether the sealed token is one: that of a public repository is empty."""

    token_accepted = models.BooleanField(null=True, editable=False)
    """Whether the Git host accepted the token the last time; null while it has not been used."""

    token_expires_at = models.DateTimeField(null=True, editable=False)
    """When the token expires, where the Git host told."""

    token_status: TokenStatus
    """Of rows read by :meth:`CodeRepositoryQuerySet.with_token_status`."""

    estimated_size_mb = models.DecimalField(max_digits=10, decimal_places=2, null=True, editable=False)
    size_source = models.TextField(default="probe", editable=False)
    repository_size_mb = models.DecimalField(max_digits=10, decimal_places=2, null=True, editable=False)
    clone_status = models.TextField(
        choices=CloneStatus.choices, default=CloneStatus.PENDING, db_default=CloneStatus.PENDING.value, editable=False
    )
    sandbox_path = models.TextField(null=True, editable=False)  # noqa: DJ001  null is part of the table's contract
    version = models.TextField(default="", editable=False)
    """Name of the published version: the lease token of the job that built it."""

    node = models.TextField(default="", editable=False)
    """Machine whose disk holds the sandbox."""

    commit_id = models.TextField(default="", editable=False)
    ref_name = models.TextField(default="", editable=False)
    substitutions = models.JSONField(default=dict, editable=False)
    """How often the published version differs from what is in the repository, by reason."""

    substituted_paths = models.JSONField(default=list, editable=False)
    """Where it does, as ``reason: path``: as many as lists can have of each row; the job has more."""

    error_code = models.TextField(default="", editable=False)
    error_message = models.TextField(default="", editable=False)
    connected_by: models.ForeignKey[Any, Any] = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, editable=False, related_name="+"
    )
    cloned_at = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = CodeRepositoryQuerySet.as_manager()
    rows = PrimaryQuerySet.as_manager()
    """What Django itself saves, refreshes and follows relations with."""

    class Meta:
        db_table = "code_repos"
        base_manager_name = "rows"
        verbose_name = "repository"
        verbose_name_plural = "repositories"
        constraints = [
            models.UniqueConstraint(fields=["project", "url_key", "ref"], name="code_repos_once_per_project"),
        ]
        indexes = [
            models.Index(fields=["project", "-created_at"], name="code_repos_project_created"),
            models.Index(fields=["clone_status", "node"], name="code_repos_status_node"),
            models.Index(fields=["token_kid"], name="code_repos_token_kid"),
        ]

    def __str__(self) -> str:
        return f"{self.git_url} @ {self.shown_ref}" if self.ref else self.git_url

    @property
    def shown_ref(self) -> str:
        """The ref with what does not print escaped, for pages and logs."""
        return display_text(self.ref.encode("utf-8", "replace"), most_characters=10 * len(self.ref))

    def save(
        self,
        *,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        """Save; a URL that is changed to another scheme, host or port loses the token, unless a new one is given.

        The row's own URL decides, not what this instance was loaded with: two saves at once must not bring the token
        of one host to the other. ``url_key`` and ``platform`` follow the URL, in a new row as well. White space around
        it is left out.

        :raises InvalidGitUrl: the URL of a new row, or the new one of another, is not usable.
        :raises UrlNotAllowed: the settings do not allow the new URL of a row; a new row needs a scheme alone.
        """
        using = using or router.db_for_write(type(self), instance=self)
        names = None if update_fields is None else set(update_fields)
        inserts = force_insert or (self._state.adding and not force_update and names is None)
        if "git_url" in vars(self):
            self.git_url = self.git_url.strip()
        if self.update_has_token() and names is not None and "token_ciphertext" in names:
            names.add("has_token")
        with transaction.atomic(using=using):
            if inserts:
                self.set_url_fields()
            elif "git_url" in vars(self) and (names is None or "git_url" in names):
                names = self._follow_url(names, using)
            super().save(force_insert=force_insert, force_update=force_update, using=using, update_fields=names)

    def _changed_fields(self) -> set[str] | None:
        """Leave out what belongs to the workers: a row that was loaded before a clone ended must not undo its end."""
        names, loaded = super()._changed_fields(), vars(self._state).get("loaded_worker_fields", {})
        return None if names is None else {name for name in names if name not in loaded or self._was_assigned(name)}

    def _was_assigned(self, name: str) -> bool:
        return bool(vars(self)[name] != vars(self._state)["loaded_worker_fields"][name])

    def _remember_stored(self, names: Collection[str] | None = None) -> None:
        """Remember what workers wrote, beside the tokens."""
        super()._remember_stored(names)
        present = {name for name in WORKER_FIELDS if name in vars(self) and (names is None or name in names)}
        known = vars(self._state).setdefault("loaded_worker_fields", {})
        known.update({name: copy.copy(vars(self)[name]) for name in present})

    def seal_token(self) -> None:
        """Seal a token that was assigned, so that no transaction is open while a key service is asked.

        :raises EncryptionUnavailable: the key is not available right now.
        """
        self.update_has_token()
        CodeRepository._meta.get_field("token_ciphertext").seal_pending(self)

    def update_has_token(self) -> bool:
        """Set ``has_token`` by a token that was assigned and is not saved yet, and return whether there is one."""
        pending = vars(self).get("token_ciphertext")
        if isinstance(pending, SealedToken):
            with suppress(TokenUndecryptable):  # which the seal refuses, in words of its own
                pending = pending.secret()
        if isinstance(pending, Secret):
            self.has_token = bool(pending)
        return isinstance(pending, Secret)

    def set_url_fields(self) -> GitUrl:
        """Set ``url_key`` and ``platform`` by the URL, and return it.

        :raises InvalidGitUrl: it is not usable.
        :raises UrlNotAllowed: its scheme is not supported.
        """
        self.git_url = self.git_url.strip()
        url = read_git_url(self.git_url)
        self.url_key, self.platform = url.key, platform_of(url)
        return url

    def _follow_url(self, names: set[str] | None, using: str) -> set[str] | None:
        """Let everything that belongs to the URL follow a new one, and return the names of the fields to save."""
        rows = CodeRepository._base_manager.using(using).select_for_update()
        stored = rows.filter(pk=self.pk).values_list("git_url", flat=True).first()
        if stored == self.git_url:
            return names
        if stored is None:
            self.set_url_fields()
            return names
        parse_git_url(self.git_url, network_policy())
        url = self.set_url_fields()
        written = {"url_key", "platform"}
        if not has_origin(stored, url):
            self.token_accepted = self.token_expires_at = None
            written |= {"token_accepted", "token_expires_at"}
            # Sealed bytes are no new token: nobody can say which host they were made for.
            is_new = isinstance(vars(self).get("token_ciphertext"), Secret)
            if not is_new or not (names is None or "token_ciphertext" in names):
                self.token_ciphertext, self.username, self.has_token = Secret(""), "", False
                written |= {"token_ciphertext", "username", "has_token"}
                AuditEntry.objects.using(using).record(AuditEvent.DROPPED, repository=self)
        return None if names is None else names | written

    def record_token_result(self, *, accepted: bool, expires_at: datetime | None = None) -> None:
        """Record what the Git host made of the token of this instance, unless the row has another one by now.

        One whose key was rotated meanwhile is still the same.

        :param expires_at: when it expires; ``None`` where nobody told, which changes nothing.
        """
        values: dict[str, Any] = {"token_accepted": accepted}
        if expires_at is not None:
            values["token_expires_at"] = database_time(expires_at)
        used: bytes = self.token_ciphertext.sealed
        if self._update_where_sealed(used, values):
            return
        stored = CodeRepository.objects.filter(pk=self.pk).values_list("token_ciphertext", flat=True).first()
        if stored and Envelope.unpack(stored).ciphertext == Envelope.unpack(used).ciphertext:
            self._update_where_sealed(stored, values)

    def _update_where_sealed(self, sealed: bytes, values: Mapping[str, Any]) -> bool:
        """Write values where the row has this sealed token, and return whether it has."""
        wanted = models.Value(sealed, output_field=models.BinaryField())
        rows = CodeRepository.objects.filter(Exact(models.F("token_ciphertext"), wanted), pk=self.pk)
        return rows.update(**values) == 1

    def begin_cloning(self) -> bool:
        """PENDING → CLONING; CLONING stays if an expired lease is taken over, and COMPLETED, which a job updates."""
        return (
            self._transition((CloneStatus.PENDING, CloneStatus.CLONING), CloneStatus.CLONING) or self.lock_completed()
        )

    def lock_completed(self) -> bool:
        """Lock a COMPLETED row until the end of the transaction, and return whether it is one."""
        held = CodeRepository.objects.filter(pk=self.pk, clone_status=CloneStatus.COMPLETED)
        return held.update(clone_status=CloneStatus.COMPLETED) == 1

    def mark_sandbox_missing(self, *, version: str, error_code: str, error_message: str) -> bool:
        """COMPLETED → FAILED if the version is gone from the disk, unless an unfinished job will publish another."""
        using = router.db_for_write(type(self), instance=self)
        with row_transaction(using):
            if not self.lock_completed() or self.jobs.using(using).unfinished().exists():
                return False
            return self._transition(
                (CloneStatus.COMPLETED,),
                CloneStatus.FAILED,
                having={"version": version},
                sandbox_path=None,
                error_code=error_code,
                error_message=error_message,
            )

    def mark_sandbox_found(self, *, version: str, sandbox_path: str, error_code: str) -> bool:
        """FAILED → COMPLETED if the version is on the disk again.

        :param error_code: the failure that this undoes.
        """
        return self._transition(
            (CloneStatus.FAILED,),
            CloneStatus.COMPLETED,
            having={"version": version, "error_code": error_code},
            sandbox_path=sandbox_path,
            error_code="",
            error_message="",
        )

    def wait_for_retry(self, *, error_code: str, error_message: str) -> bool:
        """CLONING → PENDING after a transient failure; a failed update changes nothing."""
        return self._transition(
            (CloneStatus.CLONING,), CloneStatus.PENDING, error_code=error_code, error_message=error_message
        )

    def complete(self, values: Mapping[str, Any]) -> bool:
        """CLONING or COMPLETED → COMPLETED with the figures of the published version."""
        return self._transition(
            (CloneStatus.CLONING, CloneStatus.COMPLETED),
            CloneStatus.COMPLETED,
            cloned_at=Now(),
            error_code="",
            error_message="",
            **values,
        )

    def fail(self, *, error_code: str, error_message: str) -> bool:
        """PENDING or CLONING → FAILED; a failed update changes nothing."""
        return self._transition(
            (CloneStatus.PENDING, CloneStatus.CLONING),
            CloneStatus.FAILED,
            error_code=error_code,
            error_message=error_message,
        )

    def restart(self) -> bool:
        """FAILED or CLEANED → PENDING, by request."""
        return self._transition(RESTARTABLE, CloneStatus.PENDING, error_code="", error_message="")

    def _transition(
        self,
        sources: tuple[CloneStatus, ...],
        target: CloneStatus,
        *,
        having: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> bool:
        won = CodeRepository.objects.filter(pk=self.pk, clone_status__in=sources, **(having or {})).update(
            clone_status=target, updated_at=Now(), **values
        )
        return won == 1
