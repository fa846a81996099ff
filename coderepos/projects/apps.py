"""The app under the label that migrations freeze."""

from __future__ import annotations

from django.apps import AppConfig


class ProjectsConfig(AppConfig):
    """Projects of hosts that have none of their own; nobody else installs it."""

    name = "coderepos.projects"
    label = "coderepos_projects"
    verbose_name = "Projects"
    default_auto_field = "django.db.models.BigAutoField"
