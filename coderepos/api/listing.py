"""Pages of repositories: which ones, in which order, how many at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from django.db.models import F
from rest_framework import serializers
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request

from coderepos import access
from coderepos.git.platforms import KNOWN_HOSTS
from coderepos.models import CloneStatus
from coderepos.models.repository_queryset import CodeRepositoryQuerySet
from coderepos.services.arguments import no_control_characters

PLATFORMS: Final = (*sorted({host.platform for host in KNOWN_HOSTS.values()}), "generic")
ORDERINGS: Final = ("created_at", "updated_at", "git_url", "clone_status", "repository_size_mb")


class RepositoryPagination(PageNumberPagination):
    """Pages by number, of a size that the caller may choose within a bound."""

    page_size = 50
    page_query_param = "page"
    page_size_query_param = "page_size"
    max_page_size = 200


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
        help_text="Only repositories whose URL contains this, whatever the case.",
    )
    ordering = _one_of(
        (sign + name for name in ORDERINGS for sign in ("", "-")),
        help_text="Order of the repositories, `-` for descending; the newest come first without it.",
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
    name = asked["ordering"].removeprefix("-")
    # Databases disagree about where NULL goes, and the id makes the order of pages stable.
    order = F(name).desc(nulls_last=True) if asked["ordering"].startswith("-") else F(name).asc(nulls_last=True)
    return repositories.order_by(order, "id")
