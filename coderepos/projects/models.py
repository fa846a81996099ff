"""The project that repositories belong to in hosts without a project model."""

from __future__ import annotations

import uuid

from django.db import models


class Project(models.Model):
    """A project that is no more than its name."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200)

    class Meta:
        db_table = "projects"
        ordering = ("name", "id")

    def __str__(self) -> str:
        return self.name
