"""A connected repository and its state transitions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

from django.conf import settings
from django.db import models, router, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.db.models.lookups import Exact

from coderepos.conf import project_model_label
from coderepos.crypto.fields import EncryptedTokenField, SealedToken
from coderepos.crypto.message import Envelope
from coderepos.crypto.secret import Secret
from coderepos.exceptions import TokenUndecryptable
from coderepos.git.text import display_text
from coderepos.models.clone_transitions import CloneStatus, CloneTransitions
from coderepos.models.database import PrimaryQuerySet
from coderepos.models.database_clock import database_time
from coderepos.models.repository_queryset import SIZE_OR_LEAST, SIZE_OR_MOST, CodeRepositoryQuerySet
from coderepos.models.token_status import TokenStatus
from coderepos.models.url_change import save_with_url, set_url_fields, token_field


class CodeRepository(CloneTransitions):
    """One Git repository at one ref, connected to one project.

    ``clone_status`` is written by the transition methods only: each is one conditional UPDATE that returns whether it
    won. A save leaves it, and all that a worker writes, as they are unless they were assigned.
    """

    worker_fields = (
        "clone_status",
        "sandbox_path",
        "version",
        "node",
        "stored_pack",
        "commit_id",
        "ref_name",
        "substitutions",
        "substituted_paths",
        "repository_size_mb",
        "error_code",
        "error_message",
        "cloned_at",
        "last_used_at",
        "updated_at",
    )

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
    estimated_at = models.DateTimeField(null=True, editable=False)
    """When what is cloned was changed, and with it the estimate."""

    size_source = models.TextField(default="probe", editable=False)
    repository_size_mb = models.DecimalField(max_digits=10, decimal_places=2, null=True, editable=False)
    clone_status = models.TextField(
        choices=CloneStatus.choices, default=CloneStatus.PENDING, db_default=CloneStatus.PENDING.value, editable=False
    )
    sandbox_path = models.TextField(null=True, editable=False)  # noqa: DJ001  null is part of the table's contract
    version = models.TextField(default="", editable=False)
    """Name of the published version, the lease token of the job that built it; empty where no disk has it."""

    node = models.TextField(default="", editable=False)
    """Machine whose disk holds the sandbox; empty where none does."""

    stored_pack = models.UUIDField(null=True, editable=False)
    """The :class:`~coderepos.models.stored_pack.StoredPack` of the published version, once that is stored."""

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
    last_used_at = models.DateTimeField(null=True, editable=False)
    """When a reader last asked for the clone, to the hour; at first, when it was published."""

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
            models.Index(
                fields=["node", "last_used_at", "repository_size_mb"],
                condition=models.Q(clone_status="COMPLETED"),
                name="code_repos_node_used",
            ),
            models.Index(fields=["-created_at", "id"], name="code_repos_created"),
            models.Index(fields=["updated_at"], name="code_repos_updated"),
            models.Index(fields=["git_url"], name="code_repos_url"),
            models.Index(SIZE_OR_LEAST, "id", name="code_repos_size_or_least"),
            models.Index(SIZE_OR_MOST, "id", name="code_repos_size_or_most"),
            models.Index(fields=["platform", "-created_at"], name="code_repos_platform"),
            models.Index(fields=["node", "clone_status", "repository_size_mb"], name="code_repos_node_sizes"),
            models.Index(fields=["error_code", "-created_at"], condition=~Q(error_code=""), name="code_repos_error"),
            models.Index(fields=["has_token", "token_accepted", "token_expires_at"], name="code_repos_token"),
            models.Index(
                fields=["node"],
                condition=models.Q(clone_status="COMPLETED", stored_pack__isnull=True),
                name="code_repos_unstored",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.git_url} @ {self.shown_ref}" if self.ref else self.git_url

    @property
    def is_stored_only(self) -> bool:
        """Whether the published version is in the storage for packs and on no disk."""
        is_published = self.clone_status == CloneStatus.COMPLETED and self.stored_pack is not None
        return is_published and self.sandbox_path is None

    @property
    def shown_ref(self) -> str:
        """The ref with unprintable characters escaped, for pages and logs."""
        return display_text(self.ref.encode("utf-8", "replace"), max_characters=10 * len(self.ref))

    def save(
        self,
        *,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        """Save; a URL that is changed to another scheme, host or port drops the token, unless a new one is assigned.

        The stored URL decides, not the one that was loaded. ``url_key`` and ``platform`` follow the URL, and white
        space around it is stripped. Tokens are sealed before any transaction of this method's.

        :raises InvalidGitUrl: the URL of a new row, or the new one of another, is not usable.
        :raises UrlNotAllowed: the settings do not allow the new URL of a row; a new row needs a scheme alone.
        """
        using = using or router.db_for_write(type(self), instance=self)
        names = None if update_fields is None else set(update_fields)
        self.update_has_token()
        if names is not None and "token_ciphertext" in names:
            names.add("has_token")
        inserts = force_insert or (self._state.adding and not force_update and names is None)
        write = partial(super().save, force_insert=force_insert, force_update=force_update, using=using)
        if inserts:
            set_url_fields(self)
        elif "git_url" in vars(self) and (names is None or "git_url" in names):
            save_with_url(self, names, using=using, write=write)
            return
        self.seal_before_save(names, force_insert=force_insert, using=using)
        with transaction.atomic(using=using):
            write(update_fields=names)

    def _changed_fields(self) -> set[str] | None:
        names = super()._changed_fields()
        if names is not None and "token_ciphertext" not in names:
            names.discard("has_token")  # that of the stored token, which may be another one by now
        return names

    def seal_token(self) -> None:
        """Seal a token that was assigned, so that no transaction is open while a key service is asked.

        :raises EncryptionUnavailable: the key is not available right now.
        """
        self.update_has_token()
        token_field(self).seal_pending(self)

    def update_has_token(self) -> None:
        """Set ``has_token`` by a token that was assigned and is not saved yet."""
        pending = vars(self).get("token_ciphertext")
        if isinstance(pending, SealedToken):
            with suppress(TokenUndecryptable):  # which the seal refuses, in words of its own
                pending = pending.secret()
        if isinstance(pending, Secret):
            self.has_token = bool(pending)

    def record_token_result(self, *, accepted: bool, expires_at: datetime | None = None) -> None:
        """Record whether the Git host accepted the token of this instance, unless the row has another one by now.

        One whose key was rotated meanwhile is still the same.

        :param expires_at: when it expires; ``None`` if the host did not report that, which changes nothing.
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
