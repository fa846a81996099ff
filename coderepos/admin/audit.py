"""The audit trail, to read."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from coderepos.admin.base import ReadOnlyAdmin
from coderepos.models import AuditEntry


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """The audit trail, that of rejected calls and of repositories that have gone included."""

    list_display = ("created_at", "event", "who", "project_id", "repository_id", "job_id", "details")
    list_filter = ("event", "created_at")
    fields = ("id", "created_at", "event", "actor_name", "actor_id", "project_id", "repository_id", "job_id", "details")
    search_fields = ("actor_name", "project_id", "repository_id", "job_id")
    search_help_text = "User, or the id of a project, a repository or a job"
    date_hierarchy = "created_at"
    ordering = ("-created_at", "-id")
    show_full_result_count = False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Let the page of a repository link to its entries."""
        return lookup == "repository_id__exact" or super().lookup_allowed(lookup, value, request)  # type: ignore[arg-type]

    @admin.display(description="who", ordering="actor_name", empty_value="-")
    def who(self, entry: AuditEntry) -> str | None:
        """User who asked for it."""
        return entry.actor_name or None
