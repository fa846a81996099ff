"""The background work on repositories, to read."""

from __future__ import annotations

from typing import Final

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join

from coderepos.admin.filters import ErrorCodeFilter, NodeFilter
from coderepos.admin.large_tables import LargeTableAdmin, id_begins
from coderepos.models import CodeRepository, Job
from coderepos.models.database_clock import database_now

MOST_REPOSITORIES: Final = 500
"""A search looks at the jobs of so many repositories, the newest, whose URL contains what was searched for."""


@admin.register(Job)
class JobAdmin(LargeTableAdmin):
    """Background work: the history of every repository."""

    list_display = (
        "id",
        "repository",
        "kind",
        "state",
        "attempts",
        "phase",
        "received",
        "duration",
        "isolation_level",
        "substitutions",
        "node",
        "error_code",
        "created_at",
    )
    list_filter = ("state", ErrorCodeFilter, NodeFilter, "created_at")
    list_select_related = ("repository",)
    search_fields = ("id__startswith", "repository__git_url")
    search_help_text = "URL of the repository, or the beginning of the job's id"
    sortable_by = ("created_at",)
    ordering = ("-created_at", "id")
    fieldsets = (
        (None, {"fields": ("id", "repository", "kind", "state", "attempts", "next_attempt_at")}),
        ("Failure", {"fields": ("error_code", "error_message")}),
        ("Progress", {"fields": ("phase", "received", "heartbeat_at", "lease_until", "enqueued_at")}),
        ("Room on the disk", {"fields": ("reserved_bytes", "needed_bytes", "waits_for_disk_since")}),
        ("Run", {"fields": ("node", "isolation_level", "created_at", "started_at", "finished_at", "duration")}),
        ("Result", {"fields": ("substitutions", "substituted_paths", "phases", "result")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        """Read no more of the repositories than their names."""
        columns = [field.name for field in Job._meta.concrete_fields]
        return Job.objects.select_related("repository").only(*columns, "repository__git_url", "repository__ref")

    def condition(self, word: str) -> Q:
        """Return the jobs whose id begins with a word, or whose repository's URL contains it."""
        repositories = CodeRepository.objects.filter(git_url__icontains=word).newest_first()
        # A list, not a sub-query: only so both conditions follow their indexes.
        return id_begins(word) | Q(repository__in=list(repositories.values_list("pk", flat=True)[:MOST_REPOSITORIES]))

    @admin.display(description="attempt")
    def attempts(self, job: Job) -> str:
        """Attempts that were started, and how many there may be."""
        return f"{job.attempt} of {job.max_attempts}"

    @admin.display(description="phase", empty_value="-")
    def phase(self, job: Job) -> str | None:
        """What the running attempt does."""
        phase: str | None = job.progress.get("phase")
        return phase

    @admin.display(description="MB received")
    def received(self, job: Job) -> str:
        """What came over the wire."""
        return f"{job.bytes_received / 10**6:.1f}"

    @admin.display(description="duration", empty_value="-")
    def duration(self, job: Job) -> str | None:
        """Seconds from the first attempt to the end, or until now."""
        if job.started_at is None:
            return None
        return f"{((job.finished_at or database_now()) - job.started_at).total_seconds():.1f} s"

    @admin.display(description="substitutions", empty_value="-")
    def substitutions(self, job: Job) -> str | None:
        """How many tree entries were not written as they are, by reason."""
        counts = job.result.get("substitutions", {})
        return ", ".join(f"{reason} {count}" for reason, count in counts.items() if count) or None

    @admin.display(description="substituted paths", empty_value="-")
    def substituted_paths(self, job: Job) -> str | None:
        """Which ones, the first hundred."""
        return format_html_join("", "{}<br>", ((path,) for path in job.result.get("substituted_paths", ()))) or None

    @admin.display(description="seconds per phase", empty_value="-")
    def phases(self, job: Job) -> str | None:
        """Where the time went."""
        return ", ".join(f"{name} {seconds:.1f}" for name, seconds in job.result.get("seconds", {}).items()) or None
