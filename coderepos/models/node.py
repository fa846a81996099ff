"""The machines that run workers."""

from __future__ import annotations

import math
import uuid
from datetime import timedelta
from typing import Final, Self

from django.db import models
from django.db.models import ExpressionWrapper, F, Q
from django.db.models.functions import Coalesce, Now

from coderepos.models.database import PrimaryQuerySet

ALIVE_SECONDS: Final = 90
"""How long ago a machine that is alive finished a round of upkeep: more than the minute of a cron that does them."""


class NodeState(models.TextChoices):
    """Whether a machine takes part."""

    UP = "UP"
    DRAINING = "DRAINING"


class NodeQuerySet(PrimaryQuerySet["Node"]):
    """Queries of nodes."""

    def alive(self, *, within_seconds: float = ALIVE_SECONDS) -> Self:
        """Nodes whose workers finished a round of upkeep lately."""
        return self.filter(last_seen__gte=Now() - timedelta(seconds=within_seconds))

    def lost(self, *, after_seconds: float) -> Self:
        """Nodes that have been silent for longer, whose sandbox root no other has taken over under a new name."""
        recently = self.filter(last_seen__gte=Now() - timedelta(seconds=after_seconds))
        since = Coalesce("last_seen", "created_at")  # a machine may be lost before it was ever seen at work
        silent = self.alias(since=since).filter(since__lt=Now() - timedelta(seconds=after_seconds))
        return silent.exclude(root_id__in=recently.values("root_id"))


class Node(models.Model):
    """One machine that runs workers, and the sandbox root that it owns."""

    name = models.TextField(primary_key=True)
    root_id = models.UUIDField(default=uuid.uuid4, editable=False)
    """Marker in this machine's sandbox root; two databases never share a root."""

    marked_roots = models.JSONField(default=list, editable=False)
    """Paths of the sandbox roots that this machine marked; one whose marker is gone is not mounted."""

    mount_points = models.JSONField(default=dict, editable=False)
    """Where the disks of those paths were mounted."""

    isolation_level = models.PositiveSmallIntegerField(default=0)
    last_seen = models.DateTimeField(null=True, db_default=Now())
    """When its workers last finished a round of upkeep; null while none ever did."""

    upkeep_at = models.DateTimeField(null=True, editable=False)
    """When a round of upkeep last began, by whichever worker came first."""

    swept_at = models.DateTimeField(null=True, editable=False)
    """When a sweep of the sandbox root last began."""

    disk_budget_bytes = models.BigIntegerField(null=True, editable=False)
    """What clones may take together on its disk; null where only the floor bounds them."""

    disk_used_bytes = models.BigIntegerField(default=0, db_default=0, editable=False)
    """What published clones take on it, as their rows say."""

    disk_free_bytes = models.BigIntegerField(null=True, editable=False)
    disk_floor_bytes = models.BigIntegerField(default=0, db_default=0, editable=False)
    """What has to stay free on it."""

    disk_lacks_inodes = models.BooleanField(default=False, db_default=False, editable=False)
    disk_measured_at = models.DateTimeField(null=True, editable=False)
    retained_at = models.DateTimeField(null=True, editable=False)
    """When the rules of retention were last applied to its clones."""

    state = models.TextField(
        choices=NodeState.choices, default=NodeState.UP, db_default=NodeState.UP.value, editable=False
    )
    released_at = models.DateTimeField(null=True, editable=False)
    """When it last looked for packs in the storage that nobody needs."""

    claims_paused_until = models.DateTimeField(null=True, editable=False)
    """Its workers claim nothing until then, since its disk was full."""

    created_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = NodeQuerySet.as_manager()

    class Meta:
        db_table = "code_repo_nodes"
        base_manager_name = "objects"
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def record_root(self, path: str, *, mount_point: str) -> None:
        """Record that this machine marked a sandbox root, and where its disk is mounted."""
        if path in self.marked_roots and self.mount_points.get(path) == mount_point:
            return
        self.marked_roots = [*self.marked_roots, *({path} - {*self.marked_roots})]
        self.mount_points = {**self.mount_points, path: mount_point}
        Node.objects.filter(pk=self.pk).update(marked_roots=self.marked_roots, mount_points=self.mount_points)

    def may_mark(self, path: str, *, mount_point: str) -> bool:
        """Return whether a sandbox root without a marker may be new, instead of lying below a mount that is gone.

        A machine that comes back under another name has a new row; its disk is known by the rows of all machines.

        :param mount_point: where the disk of ``path`` is mounted now.
        """
        if path in self.marked_roots:
            return False
        others = Node.objects.exclude(pk=self.pk).values_list("mount_points", flat=True)
        return not any(len(points.get(path, "")) > len(mount_point) for points in others)

    def record_heartbeat(self, *, isolation_level: int | None = None) -> None:
        """Record that a round of upkeep of this machine is finished, by the database's clock."""
        level = {} if isolation_level is None else {"isolation_level": isolation_level}
        Node.objects.filter(pk=self.pk).update(last_seen=Now(), **level)

    def begin_upkeep(self, *, every_seconds: float) -> bool:
        """Claim the next round of upkeep if it is due, and return whether this process won it."""
        return self._begin("upkeep_at", every_seconds)

    def upkeep_age_seconds(self) -> float:
        """Return how long ago the last round of upkeep began; infinity if none did."""
        age = ExpressionWrapper(Now() - F("upkeep_at"), output_field=models.DurationField())
        found: timedelta | None = Node.objects.filter(pk=self.pk).values_list(age, flat=True).first()
        return math.inf if found is None else found.total_seconds()

    def begin_sweep(self, *, every_seconds: float) -> bool:
        """Claim the next sweep if it is due, and return whether this process won it."""
        return self._begin("swept_at", every_seconds)

    def begin_retention(self, *, every_seconds: float) -> bool:
        """Claim the next application of the rules of retention if it is due, and return whether this process won it."""
        return self._begin("retained_at", every_seconds)

    def pause_claims(self, *, seconds: float) -> None:
        """Let the workers of this machine claim nothing for a while."""
        Node.objects.filter(pk=self.pk).update(claims_paused_until=Now() + timedelta(seconds=seconds))

    def may_claim(self) -> bool:
        """Return whether the workers of this machine may claim jobs now."""
        stopped = Q(claims_paused_until__gt=Now()) | Q(state=NodeState.DRAINING)
        return not Node.objects.filter(stopped, pk=self.pk).exists()

    def begin_release(self, *, every_seconds: float) -> bool:
        """Claim the next look for packs that nobody needs, and return whether this process won it."""
        return self._begin("released_at", every_seconds)

    def set_state(self, state: NodeState) -> None:
        """Let its workers claim jobs, or not any more; what runs goes on."""
        Node.objects.filter(pk=self.pk).update(state=state)

    def _begin(self, field: str, every_seconds: float) -> bool:
        due = Q(**{field: None}) | Q(**{f"{field}__lte": Now() - timedelta(seconds=every_seconds)})
        return bool(Node.objects.filter(due, pk=self.pk).update(**{field: Now()}))
