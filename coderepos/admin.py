"""The admin: what is connected, what its jobs did, who did what, all of it to read; members of projects to edit.

Repositories are connected and cloned through the services alone, so rows can neither be added nor changed here, and
nothing here ever loads a sealed token.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.timesince import timesince

from coderepos import services
from coderepos.crypto.redaction import redact
from coderepos.exceptions import CodeReposError
from coderepos.git.substitutions import MEANINGS
from coderepos.models import (
    AuditEntry,
    CloneStatus,
    CodeRepository,
    Job,
    Node,
    ProjectMembership,
    TokenStatus,
)
from coderepos.models.database_clock import database_now

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
    TabularInline = admin.TabularInline[Any, Any]
else:
    ModelAdmin, TabularInline = admin.ModelAdmin, admin.TabularInline

STATUS_MARKS: Final = {
    CloneStatus.PENDING: "…",
    CloneStatus.CLONING: "↓",
    CloneStatus.COMPLETED: "✓",
    CloneStatus.FAILED: "✗",
    CloneStatus.CLEANING: "↺",
    CloneStatus.CLEANED: "–",
}


class OwnedAdmin(ModelAdmin):
    """Rows that are deleted with their owner: users who may delete projects and users need no permission of ours."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether a row may be deleted: by permission on our own pages, and always along with its owner on others."""
        return self._is_cascade(request, obj) or super().has_delete_permission(request, obj)

    def _is_cascade(self, request: HttpRequest, obj: Any) -> bool:
        """Return whether another admin asks about a row that it found while it follows foreign keys."""
        match = request.resolver_match
        own_pages = f"{self.opts.app_label}_{self.opts.model_name}_"
        return obj is not None and match is not None and not (match.url_name or "").startswith(own_pages)


class ReadOnlyAdmin(OwnedAdmin):
    """Rows that are looked at and never edited."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nothing is added by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing is changed by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing is deleted by hand."""
        return self._is_cascade(request, obj)


class TokenStatusFilter(admin.SimpleListFilter):
    """Narrows repositories down by what is known about their tokens."""

    title = "token"
    parameter_name = "token_status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer every status."""
        return [(status.value, status.value) for status in TokenStatus]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the repositories in the chosen status."""
        return queryset.filter(**{self.parameter_name: self.value()}) if self.value() else queryset


@admin.register(CodeRepository)
class CodeRepositoryAdmin(ReadOnlyAdmin):
    """Connected repositories."""

    list_display = ("git_url", "host", "asked_ref", "project", "status", "token", "size", "age", "node", "error_code")
    list_filter = ("clone_status", TokenStatusFilter, "platform", "error_code", "node", "created_at")
    list_select_related = ("project",)
    search_fields = ("git_url", "ref", "commit_id", "id__startswith")
    search_help_text = "URL, ref, commit, or how the id begins"
    date_hierarchy = "created_at"
    ordering = ("-created_at", "id")
    actions = ("clone_again",)
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
        """Whether the user may clone again, as far as the role in the project allows it too."""
        return request.user.has_perm("coderepos.change_coderepository")

    @admin.display(description="username")
    def user_name(self, repository: CodeRepository) -> str:
        """User name that goes with the token; one that is a token itself is masked."""
        return redact(repository.username) or "-"

    @admin.display(description="host")
    def host(self, repository: CodeRepository) -> str:
        """Where the repository is."""
        return urlsplit(repository.git_url).hostname or "-"

    @admin.display(description="ref", ordering="ref", empty_value="-")
    def asked_ref(self, repository: CodeRepository) -> str | None:
        """What was asked for, printable."""
        return repository.shown_ref or None

    @admin.display(description="status", ordering="clone_status")
    def status(self, repository: CodeRepository) -> str:
        """State with a mark that is seen at once."""
        return f"{STATUS_MARKS[CloneStatus(repository.clone_status)]} {repository.clone_status}"

    @admin.display(description="token", ordering="token_status")
    def token(self, repository: CodeRepository) -> str:
        """What is known about the token."""
        return TokenStatus(repository.token_status).value

    @admin.display(description="MB", ordering="repository_size_mb", empty_value="-")
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

    @admin.action(description="Clone again", permissions=["clone"])
    def clone_again(self, request: HttpRequest, queryset: QuerySet[CodeRepository]) -> None:
        """Queue another clone of every selected repository that may have one."""
        queued, refusals = 0, Counter[str]()
        for repository in queryset:
            try:
                services.clone_again(user=request.user, repository=repository)
            except CodeReposError as error:
                refusals[error.message] += 1
            else:
                queued += 1
        if queued:
            self.message_user(request, f"{queued} queued to be cloned again.", messages.SUCCESS)
        for message, count in refusals.items():
            self.message_user(request, f"{count} not queued: {message}", messages.WARNING)


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
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
    list_filter = ("state", "kind", "error_code", "node", "created_at")
    list_select_related = ("repository",)
    search_fields = ("id__startswith", "repository__git_url")
    search_help_text = "URL of the repository, or how the id of the job begins"
    date_hierarchy = "created_at"
    ordering = ("-created_at", "id")
    show_full_result_count = False
    fieldsets = (
        (None, {"fields": ("id", "repository", "kind", "state", "attempts", "next_attempt_at")}),
        ("Failure", {"fields": ("error_code", "error_message")}),
        ("Progress", {"fields": ("phase", "received", "heartbeat_at", "lease_until", "rung_at")}),
        ("Run", {"fields": ("node", "isolation_level", "created_at", "started_at", "finished_at", "duration")}),
        ("Result", {"fields": ("substitutions", "substituted_paths", "phases", "result")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        """Leave the sealed tokens of the repositories in the database."""
        return Job.objects.select_related("repository").defer("repository__token_ciphertext")

    @admin.display(description="attempt")
    def attempts(self, job: Job) -> str:
        """Attempts that were started, and how many there may be."""
        return f"{job.attempt} of {job.max_attempts}"

    @admin.display(description="phase", empty_value="-")
    def phase(self, job: Job) -> str | None:
        """What the running attempt does."""
        phase: str | None = job.progress.get("phase")
        return phase

    @admin.display(description="MB received", ordering="bytes_received")
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


@admin.register(ProjectMembership)
class ProjectMembershipAdmin(OwnedAdmin):
    """Who may do what in which project, as far as the default access policy is in use."""

    list_display = ("project", "user", "role")
    list_display_links = ("project", "user")
    list_filter = ("role",)
    list_select_related = ("project", "user")
    # The host's admins of projects and users are unknown: raw ids need none of them.
    raw_id_fields = ("project", "user")


class MembershipInline(TabularInline):
    """The members of one project."""

    model = ProjectMembership
    extra = 0
    raw_id_fields = ("user",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProjectMembership]:
        """Read the users along."""
        return super().get_queryset(request).select_related("user")
