"""A connected repository and the arrows between its states."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final, Self

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from coderepos.conf import project_model_label
from coderepos.crypto.fields import EncryptedTokenField
from coderepos.crypto.rows import SealedTokenModel, SealedTokenQuerySet


class CloneStatus(models.TextChoices):
    """Where a repository is in its life."""

    PENDING = "PENDING"
    CLONING = "CLONING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CLEANING = "CLEANING"
    CLEANED = "CLEANED"


RESTARTABLE: Final = (CloneStatus.FAILED, CloneStatus.CLEANED)


class CodeRepositoryQuerySet(SealedTokenQuerySet["CodeRepository"]):
    """Reads of repositories."""

    def in_projects(self, projects: models.QuerySet[Any]) -> Self:
        """Repositories of any of ``projects``, a queryset that becomes a sub-query."""
        return self.filter(project__in=projects)

    def without_token(self) -> Self:
        """Leave the sealed token in the database: no list needs it."""
        return self.defer("token_ciphertext")

    def newest_first(self) -> Self:
        """Order by creation, the id as the tie-break that makes pages stable."""
        return self.order_by("-created_at", "id")


class CodeRepository(SealedTokenModel):
    """One Git repository at one ref, connected to one project.

    ``clone_status`` is written by the arrow methods alone: each is one conditional UPDATE that says whether it won.
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
    token_ciphertext = EncryptedTokenField(kid_field="token_kid")
    token_kid = models.TextField(blank=True, editable=False)
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
    error_code = models.TextField(default="", editable=False)
    error_message = models.TextField(default="", editable=False)
    connected_by: models.ForeignKey[Any, Any] = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, editable=False, related_name="+"
    )
    cloned_at = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = CodeRepositoryQuerySet.as_manager()

    class Meta:
        db_table = "code_repos"
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
        return f"{self.git_url} @ {self.ref}" if self.ref else self.git_url

    def begin_cloning(self) -> bool:
        """PENDING → CLONING; CLONING stays, where a lapsed lease is taken over."""
        return self._move((CloneStatus.PENDING, CloneStatus.CLONING), CloneStatus.CLONING)

    def wait_for_retry(self, *, error_code: str, error_message: str) -> bool:
        """CLONING → PENDING after a transient failure."""
        return self._move(
            (CloneStatus.CLONING,), CloneStatus.PENDING, error_code=error_code, error_message=error_message
        )

    def complete(self, values: Mapping[str, Any]) -> bool:
        """CLONING → COMPLETED with the figures of the published version."""
        return self._move(
            (CloneStatus.CLONING,), CloneStatus.COMPLETED, cloned_at=Now(), error_code="", error_message="", **values
        )

    def fail(self, *, error_code: str, error_message: str) -> bool:
        """PENDING or CLONING → FAILED."""
        return self._move(
            (CloneStatus.PENDING, CloneStatus.CLONING),
            CloneStatus.FAILED,
            error_code=error_code,
            error_message=error_message,
        )

    def restart(self) -> bool:
        """FAILED or CLEANED → PENDING, by request."""
        return self._move(RESTARTABLE, CloneStatus.PENDING, error_code="", error_message="")

    def _move(self, sources: tuple[CloneStatus, ...], target: CloneStatus, **values: Any) -> bool:
        won = CodeRepository.objects.filter(pk=self.pk, clone_status__in=sources).update(
            clone_status=target, updated_at=Now(), **values
        )
        return won == 1
