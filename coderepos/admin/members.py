"""The members of projects, to edit."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from coderepos.admin.base import OwnedAdmin, TabularInline
from coderepos.models import ProjectMembership


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
