"""Lists of repositories: which ones, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.db.models.expressions import OrderBy
from rest_framework import serializers
from rest_framework.request import Request

from coderepos import access
from coderepos.git.platforms import PLATFORMS
from coderepos.models import CloneStatus
from coderepos.models.repository_queryset import SIZE_OR_LEAST, SIZE_OR_MOST, CodeRepositoryQuerySet
from coderepos.services.repositories.arguments import no_control_characters

ORDERINGS: Final = ("created_at", "updated_at", "git_url", "clone_status", "repository_size_mb")

_SIZE_ORDERS: Final[Mapping[str, OrderBy]] = {
    "repository_size_mb": SIZE_OR_MOST.asc(),
    "-repository_size_mb": SIZE_OR_LEAST.desc(),
}
"""Repositories without a size come last in both."""


def _one_of(values: Iterable[str], **options: Any) -> serializers.ChoiceField:
    """Return an optional choice whose error names the choices, not what was sent."""
    choices = tuple(values)
    return serializers.ChoiceField(
        choices,
        required=False,
        allow_blank=True,
        error_messages={"invalid_choice": f"Must be one of {', '.join(choices)}."},
        **options,
    )


class RepositoryQuery(serializers.Serializer[Any]):
    """What a list of repositories can be asked for in its query string; other names are ignored."""

    status = _one_of(CloneStatus.values, help_text="Only repositories in this state.")
    platform = _one_of(PLATFORMS, help_text="Only repositories on this platform.")
    search = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=200,
        validators=[no_control_characters],
        help_text="Only repositories whose URL contains this; case is ignored.",
    )
    ordering = _one_of(
        (sign + name for name in ORDERINGS for sign in ("", "-")),
        help_text="Order of the repositories, `-` for descending; by default the newest come first.",
    )


class AllRepositoriesQuery(RepositoryQuery):
    """What the list over all projects can be asked for."""

    project = serializers.CharField(required=False, allow_blank=True, help_text="Only repositories of this project.")


def filter_repositories(
    repositories: CodeRepositoryQuerySet, request: Request, *, project_id: str | None = None
) -> CodeRepositoryQuerySet:
    """Return those of ``repositories`` that the caller asked for, in a stable order.

    :param project_id: the project in the path, instead of one in the query string.
    :raises ValidationError: the query string has a value that is not allowed.
    :raises NotFound: the project is unknown, malformed, or not visible to the caller.
    """
    query = (AllRepositoriesQuery if project_id is None else RepositoryQuery)(data=request.query_params)
    query.is_valid(raise_exception=True)
    asked = {name: value for name, value in query.validated_data.items() if value}

    project_id = project_id or asked.get("project")
    if project_id is not None:
        repositories = repositories.filter(project_id=access.find_project(request.user, project_id).pk)
    if "status" in asked:
        repositories = repositories.filter(clone_status=asked["status"])
    if "platform" in asked:
        repositories = repositories.filter(platform=asked["platform"])
    if "search" in asked:
        repositories = repositories.filter(git_url__icontains=asked["search"])
    if "ordering" not in asked:
        return repositories.newest_first()
    # The id makes the order of pages stable.
    return repositories.order_by(_SIZE_ORDERS.get(asked["ordering"], asked["ordering"]), "id")
