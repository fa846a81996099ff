"""The machines that run workers, to read."""

from __future__ import annotations

from django.contrib import admin
from django.utils.timesince import timesince

from coderepos.admin.base import ReadOnlyAdmin
from coderepos.models import Node
from coderepos.models.database_clock import database_now


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    """The machines that run workers."""

    list_display = ("name", "isolation_level", "last_seen", "silence", "created_at")
    fields = ("name", "root_id", "isolation_level", "last_seen", "swept_at", "created_at")
    search_fields = ("name",)

    @admin.display(description="silent for", ordering="-last_seen", empty_value="never seen at work")
    def silence(self, node: Node) -> str | None:
        """Time since its workers were last seen at work."""
        return None if node.last_seen is None else timesince(node.last_seen, database_now())
