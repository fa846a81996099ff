"""The audit trail, to read."""

from __future__ import annotations

from typing import Any, Final

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from coderepos.admin.large_tables import LargeTableAdmin, id_begins
from coderepos.models import AuditEntry

SHORTEST_ID: Final = 4
"""Fewer digits of an id find too much."""


@admin.register(AuditEntry)
class AuditEntryAdmin(LargeTableAdmin):
    """The audit trail, that of rejected calls and of repositories that have gone included."""

    list_display = ("created_at", "event", "who", "project_id", "repository_id", "job_id", "details")
    list_filter = ("event", "created_at")
    fields = ("id", "created_at", "event", "actor_name", "actor_id", "project_id", "repository_id", "job_id", "details")
    search_fields = ("actor_name", "project_id", "repository_id", "job_id")
    search_help_text = "Name of a user, id of a project, or the beginning of the id of a repository or a job"
    sortable_by = ("created_at",)
    ordering = ("-created_at", "-id")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Let the page of a repository link to its entries."""
        return lookup == "repository_id__exact" or super().lookup_allowed(lookup, value, request)  # type: ignore[arg-type]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Return the entries that every word finds, or those of the user whose name has just these words."""
        if len(search_term.split()) > 1:
            named = queryset.filter(actor_name=search_term.strip())
            if named.exists():
                return named, False
        return super().get_search_results(request, queryset, search_term)

    def condition(self, word: str) -> Q:
        """Return the entries by whom, or about what, a word names."""
        about = id_begins(word, "repository_id") | id_begins(word, "job_id") if len(word) >= SHORTEST_ID else Q()
        return Q(actor_name=word) | Q(project_id=word) | about

    @admin.display(description="who", empty_value="-")
    def who(self, entry: AuditEntry) -> str | None:
        """User who asked for it."""
        return entry.actor_name or None
