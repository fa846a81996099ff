"""What is still to be removed from the disks of machines, whatever became of the rows it belonged to."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, Self

from django.db import models
from django.db.models import F
from django.db.models.functions import Now

from coderepos.models.database import PrimaryQuerySet
from coderepos.models.job_states import LEASE_SECONDS

SETTLE_SECONDS: Final = LEASE_SECONDS + 30
"""How long a machine looks again and again after a job was taken from its worker: longer than the worker, unless it is
frozen, can go on without noticing."""


class PurgeQuerySet(PrimaryQuerySet["Purge"]):
    """Queries of purges."""

    def request(
        self,
        repository_id: uuid.UUID,
        *,
        project_key: str,
        nodes: Iterable[str],
        sizes_bytes: Mapping[str, int] | None = None,
        surplus_bytes: Mapping[str, int] | None = None,
        is_worked_on: bool = False,
    ) -> None:
        """Have machines bring the sandbox of a repository to what the database says; repeated requests are one row.

        :param nodes: names of machines that may hold some of its bytes.
        :param sizes_bytes: what a published clone takes there, by machine.
        :param surplus_bytes: what a copy takes there that the repository's row counts no more, by machine.
        :param is_worked_on: whether a worker may still write there, since it has not noticed yet that it must not.
        """
        settles_at = Now() + timedelta(seconds=SETTLE_SECONDS if is_worked_on else 0)
        wanted = [
            Purge(
                repository_id=repository_id,
                project_key=project_key,
                node=node,
                size_bytes=(sizes_bytes or {}).get(node, 0),
                surplus_bytes=(surplus_bytes or {}).get(node, 0),
                settles_at=settles_at,
            )
            for node in sorted({*nodes} - {""})
        ]
        self.bulk_create(
            wanted,
            update_conflicts=True,
            unique_fields=["repository_id", "node"],
            update_fields=["request_id", "size_bytes", *(["surplus_bytes"] if surplus_bytes else [])],
        )
        if is_worked_on:
            self.filter(repository_id=repository_id).update(settles_at=settles_at)

    def on_nodes(self, names: models.QuerySet[Any]) -> Self:
        """Those of machines, the one tried longest ago first, so that one that fails never holds up the rest."""
        return self.filter(node__in=names).order_by(F("tried_at").asc(nulls_first=True), "id")


class Purge(models.Model):
    """One machine that has yet to confirm that it holds nothing of a repository that the database does not know.

    No foreign keys: it survives the repository, its project and any cascade.
    """

    id = models.BigAutoField(primary_key=True)
    repository_id = models.UUIDField()
    project_key = models.TextField()
    """Name of the directory of the project."""

    node = models.TextField()
    size_bytes = models.PositiveBigIntegerField(default=0)
    """What the clone took that was published there; it takes it until it is removed, also once its row is gone."""

    surplus_bytes = models.PositiveBigIntegerField(default=0, db_default=0)
    """What a copy takes there that the row of its repository does not count: it was evicted, or is elsewhere now."""

    request_id = models.UUIDField(default=uuid.uuid4)
    """Another one with each request: what a machine saw before the last request confirms nothing."""

    settles_at = models.DateTimeField(db_default=Now())
    """Until then it is done again and again: a worker may not have noticed yet that its job is gone."""

    tried_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    objects = PurgeQuerySet.as_manager()

    class Meta:
        db_table = "code_repo_purges"
        base_manager_name = "objects"
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["repository_id", "node"], name="code_repo_purges_once"),
        ]
        indexes = [
            models.Index(fields=["node", "tried_at"], name="code_repo_purges_node"),
        ]

    def __str__(self) -> str:
        return f"{self.repository_id} on {self.node}"
