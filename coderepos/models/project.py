"""The project that repositories belong to, and its members."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import models

from coderepos.conf import project_model_label
from coderepos.models.database import PrimaryQuerySet, alias


def get_project_model() -> type[models.Model]:
    """Return the project model of this installation."""
    return apps.get_model(project_model_label(), require_ready=False)


def all_projects() -> models.QuerySet[Any]:
    """Return every project, from where our rows are, those included that the host's own managers hide."""
    return get_project_model()._base_manager.using(alias())


class Role(models.TextChoices):
    """Role of a member; each includes those before it."""

    VIEWER = "viewer"
    DEVELOPER = "developer"
    MAINTAINER = "maintainer"

    def includes(self, needed: Role) -> bool:
        """Return whether this role includes ``needed``."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class ProjectMembership(models.Model):
    """The role of one user in one project, read by the default access policy."""

    project: models.ForeignKey[Any, Any] = models.ForeignKey(
        project_model_label(), on_delete=models.CASCADE, related_name="code_repo_members"
    )
    user: models.ForeignKey[Any, Any] = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="code_repo_memberships"
    )
    role = models.TextField(choices=Role.choices, default=Role.VIEWER)

    objects = PrimaryQuerySet.as_manager()

    class Meta:
        db_table = "code_repo_members"
        base_manager_name = "objects"
        constraints = [models.UniqueConstraint(fields=["project", "user"], name="code_repo_members_once")]

    def __str__(self) -> str:
        return f"{self.user_id} is {self.role} of {self.project_id}"
