"""The machines that run workers."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Self

from django.db import models
from django.db.models.functions import Now


class NodeQuerySet(models.QuerySet["Node"]):
    """Reads of nodes."""

    def alive(self, *, within_seconds: float = 180) -> Self:
        """Nodes whose reaper ran lately."""
        return self.filter(last_seen__gte=Now() - timedelta(seconds=within_seconds))


class Node(models.Model):
    """One machine that runs workers, and the sandbox root that it owns."""

    name = models.TextField(primary_key=True)
    root_id = models.UUIDField(default=uuid.uuid4, editable=False)
    """The marker that this machine's sandbox root holds; two databases never share a root."""

    isolation_level = models.PositiveSmallIntegerField(default=0)
    last_seen = models.DateTimeField(db_default=Now())
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = NodeQuerySet.as_manager()

    class Meta:
        db_table = "code_repo_nodes"
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def seen(self, *, isolation_level: int | None = None) -> None:
        """Record that this machine is at work, by the database's clock."""
        level = {} if isolation_level is None else {"isolation_level": isolation_level}
        Node.objects.filter(pk=self.pk).update(last_seen=Now(), **level)
