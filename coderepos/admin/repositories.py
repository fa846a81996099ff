"""Connected repositories, to read, to clone again, to cancel, to clean and to disconnect."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.timesince import timesince

from coderepos import services
from coderepos.admin.base import OwnedAdmin
from coderepos.admin.filters import ErrorCodeFilter, NodeFilter, PlatformFilter, TokenStatusFilter
from coderepos.admin.large_tables import LargeTableAdmin, id_begins
from coderepos.admin.repository_actions import cancel, clean, clone_again
from coderepos.crypto.redaction import redact
from coderepos.git.substitutions import MEANINGS
from coderepos.models import CloneStatus, CodeRepository, TokenStatus
from coderepos.models.database_clock import database_now
from coderepos.models.repository_queryset import SIZE_OR_LEAST

STATUS_MARKS: Final = {
    CloneStatus.PENDING: "…",
    CloneStatus.CLONING: "↓",
    CloneStatus.COMPLETED: "✓",
    CloneStatus.FAILED: "✗",
    CloneStatus.CLEANING: "↺",
    CloneStatus.CLEANED: "–",
}


@admin.register(CodeRepository)
class CodeRepositoryAdmin(LargeTableAdmin):
    """Connected repositories."""

    list_display = ("git_url", "host", "asked_ref", "project", "status", "token", "size", "age", "node", "error_code")
    list_filter = ("clone_status", TokenStatusFilter, PlatformFilter, ErrorCodeFilter, NodeFilter, "created_at")
    list_select_related = ("project",)
    search_fields = ("git_url", "ref", "commit_id", "id__startswith")
    search_help_text = "URL, ref, commit, or the beginning of the id"
    sortable_by = ("git_url", "status", "size", "age")
    ordering = ("-created_at", "id")
    actions = (clone_again, cancel, clean)
    fieldsets = (
        (
            None,
            {"fields": ("id", "project", "git_url", "asked_ref", "depth", "platform", "connected_by", "created_at")},
        ),
        ("State", {"fields": ("status", "error_code", "error_message", "updated_at", "history")}),
        (
            "Clone",
            {"fields": ("sandbox_path", "node", "version", "commit_id", "ref_name", "cloned_at")},
        ),
        (
            "What the clone has otherwise",
            {"fields": ("differences", "different_paths")},
        ),
        ("Size in MB", {"fields": ("repository_size_mb", "estimated_size_mb", "size_source")}),
        ("Access", {"fields": ("user_name", "token", "token_expires_at", "token_kid", "trail")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[CodeRepository]:
        """Leave the sealed tokens in the database."""
        return CodeRepository.objects.without_token().with_token_status()

    def condition(self, word: str) -> Q:
        """Return the repositories whose URL, ref or commit contains a word, or whose id begins with it."""
        texts = Q(git_url__icontains=word) | Q(ref__icontains=word) | Q(commit_id__icontains=word)
        return texts | id_begins(word)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever has the permission may disconnect a repository: its row, token and jobs go, its sandbox follows."""
        return OwnedAdmin.has_delete_permission(self, request, obj)

    def delete_model(self, request: HttpRequest, obj: CodeRepository) -> None:
        """Disconnect one repository, in the name of the user."""
        with services.disconnecting_as(request.user):
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[CodeRepository]) -> None:
        """Disconnect the selected repositories, in the name of the user."""
        with services.disconnecting_as(request.user):
            super().delete_queryset(request, queryset)

    def has_clone_permission(self, request: HttpRequest) -> bool:
        """Whether the user may clone again, cancel and clean, as far as the role in the project allows it too."""
        return request.user.has_perm("coderepos.change_coderepository")

    @admin.display(description="username")
    def user_name(self, repository: CodeRepository) -> str:
        """User name that goes with the token; one that is a token itself is masked."""
        return redact(repository.username) or "-"

    @admin.display(description="host")
    def host(self, repository: CodeRepository) -> str:
        """Where the repository is."""
        return urlsplit(repository.git_url).hostname or "-"

    @admin.display(description="ref", empty_value="-")
    def asked_ref(self, repository: CodeRepository) -> str | None:
        """What was asked for, printable."""
        return repository.shown_ref or None

    @admin.display(description="status", ordering="clone_status")
    def status(self, repository: CodeRepository) -> str:
        """State with a mark that is seen at once."""
        return f"{STATUS_MARKS[CloneStatus(repository.clone_status)]} {repository.clone_status}"

    @admin.display(description="token")
    def token(self, repository: CodeRepository) -> str:
        """What is known about the token."""
        return TokenStatus(repository.token_status).value

    @admin.display(description="MB", ordering=SIZE_OR_LEAST, empty_value="-")
    def size(self, repository: CodeRepository) -> str | None:
        """What the clone takes on disk, or its estimate."""
        if repository.repository_size_mb is not None:
            return f"{repository.repository_size_mb:.1f}"
        return None if repository.estimated_size_mb is None else f"~{repository.estimated_size_mb:.1f}"

    @admin.display(description="age", ordering="-created_at")
    def age(self, repository: CodeRepository) -> str:
        """Time since it was connected."""
        return timesince(repository.created_at, database_now(), depth=1)

    @admin.display(description="substitutions", empty_value="none")
    def differences(self, repository: CodeRepository) -> str | None:
        """How often the clone differs from what is in the repository, and how."""
        rows = ((n, reason, MEANINGS.get(reason, "")) for reason, n in repository.substitutions.items() if n)
        return format_html_join("", "{} {}: {}<br>", rows) or None

    @admin.display(description="paths", empty_value="-")
    def different_paths(self, repository: CodeRepository) -> str | None:
        """Where it does; the jobs have more."""
        return format_html_join("", "{}<br>", ((path,) for path in repository.substituted_paths)) or None

    @admin.display(description="history")
    def history(self, repository: CodeRepository) -> str:
        """Link to the jobs of the repository."""
        address = reverse("admin:coderepos_job_changelist", current_app=self.admin_site.name)
        return format_html('<a href="{}?repository__id__exact={}">Jobs</a>', address, repository.pk)

    @admin.display(description="audit trail")
    def trail(self, repository: CodeRepository) -> str:
        """Link to what was done with the repository and its token."""
        address = reverse("admin:coderepos_auditentry_changelist", current_app=self.admin_site.name)
        return format_html('<a href="{}?repository_id__exact={}">Audit trail</a>', address, repository.pk)
