"""Slots for probes: how many Git hosts the whole site asks at once while a caller waits."""

from __future__ import annotations

from django.db import models

from coderepos.models.database import PrimaryQuerySet


class ProbeSlot(models.Model):
    """One probe at a time; whoever has its token holds it, and a killed process frees it when its time is over."""

    number = models.PositiveIntegerField(primary_key=True)
    token = models.UUIDField(null=True)
    project = models.TextField(default="")
    """Key of the project for which the probe is."""

    user = models.TextField(default="")
    """Key of the user who waits for it."""

    until = models.DateTimeField(null=True)
    """When it is free again, whatever becomes of its holder."""

    objects = PrimaryQuerySet["ProbeSlot"].as_manager()

    class Meta:
        db_table = "code_repo_probe_slots"
        base_manager_name = "objects"

    def __str__(self) -> str:
        return str(self.number)
