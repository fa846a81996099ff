"""The machines that run workers, to read."""

from __future__ import annotations

from django.contrib import admin
from django.utils.timesince import timesince

from coderepos.admin.base import ReadOnlyAdmin
from coderepos.models import Node
from coderepos.models.database_clock import database_now
from coderepos.models.disk import reserved_bytes


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    """The machines that run workers."""

    list_display = ("name", "state", "isolation_level", "last_seen", "silence", "used", "budget", "free", "created_at")
    fieldsets = (
        (None, {"fields": ("name", "state", "root_id", "isolation_level", "last_seen", "swept_at", "created_at")}),
        (
            "Disk",
            {
                "fields": (
                    "used",
                    "reserved",
                    "budget",
                    "free",
                    "floor",
                    "disk_lacks_inodes",
                    "disk_measured_at",
                    "claims_paused_until",
                    "retained_at",
                )
            },
        ),
    )
    search_fields = ("name",)

    @admin.display(description="silent for", ordering="-last_seen", empty_value="never seen at work")
    def silence(self, node: Node) -> str | None:
        """Time since its workers were last seen at work."""
        return None if node.last_seen is None else timesince(node.last_seen, database_now())

    @admin.display(description="GB used", ordering="disk_used_bytes")
    def used(self, node: Node) -> str:
        """What published clones take, as their rows say."""
        return _gigabytes(node.disk_used_bytes)

    @admin.display(description="GB reserved")
    def reserved(self, node: Node) -> str:
        """What running jobs may still write."""
        return _gigabytes(reserved_bytes([node.name]))

    @admin.display(description="GB allowed", ordering="disk_budget_bytes", empty_value="no budget")
    def budget(self, node: Node) -> str | None:
        """What clones may take together."""
        return None if node.disk_budget_bytes is None else _gigabytes(node.disk_budget_bytes)

    @admin.display(description="GB free", ordering="disk_free_bytes", empty_value="not measured")
    def free(self, node: Node) -> str | None:
        """What is free on the disk of the sandboxes."""
        return None if node.disk_free_bytes is None else _gigabytes(node.disk_free_bytes)

    @admin.display(description="GB that stay free")
    def floor(self, node: Node) -> str:
        """What no clone may take."""
        return _gigabytes(node.disk_floor_bytes)


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 10**9:.2f}"
