"""Projects and their members in the admin."""

from __future__ import annotations

from django.contrib import admin

from coderepos.admin import MembershipInline, ModelAdmin
from coderepos.models import get_project_model
from coderepos.projects.models import Project


@admin.register(Project)
class ProjectAdmin(ModelAdmin):
    """Projects, each with its members."""

    list_display = ("name", "id")
    search_fields = ("name", "id__startswith")
    # They may still be installed while repositories belong to another model already.
    inlines = (MembershipInline,) if get_project_model() is Project else ()
