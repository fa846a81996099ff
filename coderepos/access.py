"""Who may do what in which project, and how often: one small policy class, replaceable by ``ACCESS_POLICY``."""

from __future__ import annotations

import re
import time
from enum import StrEnum
from typing import Any, Final, Protocol, cast

from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.sql import Query

from coderepos.conf import ConfigurationError, conf, imported
from coderepos.exceptions import NotFound, PermissionDenied, Throttled
from coderepos.models import CodeRepository, ProjectMembership, Role, alias, all_projects, get_project_model
from coderepos.models.repository_queryset import CodeRepositoryQuerySet


class Action(StrEnum):
    """What somebody may want to do with the repositories of a project."""

    VIEW = "view"
    CONNECT = "connect"
    CLONE = "clone"
    CANCEL = "cancel"
    CLEAN = "clean"
    DELETE = "delete"
    REPLACE_TOKEN = "replace_token"  # noqa: S105  the name of an action
    AUDIT = "audit"


ROLE_NEEDED: Final = {
    Action.VIEW: Role.VIEWER,
    Action.CONNECT: Role.DEVELOPER,
    Action.CLONE: Role.DEVELOPER,
    Action.CANCEL: Role.DEVELOPER,
    Action.CLEAN: Role.MAINTAINER,
    Action.DELETE: Role.MAINTAINER,
    Action.REPLACE_TOKEN: Role.MAINTAINER,
    Action.AUDIT: Role.MAINTAINER,
}


class AccessPolicy(Protocol):
    """What a class named by ``ACCESS_POLICY`` has to answer; everything is denied until it allows it."""

    def visible_projects(self, user: Any) -> models.QuerySet[Any]:
        """Return a queryset of the projects that ``user`` may see; it may be sliced, or a union of others."""

    def allows(self, user: Any, action: Action, project_id: object) -> bool:
        """Return whether ``user`` may do ``action`` in a project."""


class MembershipPolicy:
    """The default policy: roles of ``ProjectMembership``, and superusers may do everything."""

    def visible_projects(self, user: Any) -> models.QuerySet[Any]:
        """Return the projects of which ``user`` is a member."""
        projects = get_project_model()._default_manager.all()
        if not user.is_active:
            return projects.none()
        if user.is_superuser:
            return projects
        return projects.filter(code_repo_members__user_id=user.pk)

    def allows(self, user: Any, action: Action, project_id: Any) -> bool:
        """Return whether the role of ``user`` in the project allows ``action``."""
        if not user.is_active:
            return False
        if user.is_superuser:
            return True
        role = (
            ProjectMembership.objects.filter(user_id=user.pk, project_id=project_id)
            .values_list("role", flat=True)
            .first()
        )
        return role in Role.values and Role(role).includes(ROLE_NEEDED[action])


def policy() -> AccessPolicy:
    """Return the policy of this installation."""
    return cast("AccessPolicy", imported("ACCESS_POLICY")())


def visible_projects(user: Any) -> models.QuerySet[Any]:
    """Return the projects that ``user`` may see; none for anonymous callers, whatever the policy.

    :raises ConfigurationError: the policy does not return a queryset.
    """
    if not getattr(user, "is_authenticated", False):
        return get_project_model()._default_manager.none()
    found = policy().visible_projects(user)
    if not isinstance(found, models.QuerySet):
        raise ConfigurationError(f"{conf.ACCESS_POLICY}.visible_projects() must return a queryset of projects.")
    # Projects are in the database of our tables: a project that was just made is there, and joins stay inside it.
    found = found.using(alias())
    if _is_plain(found.query):
        return found
    # A condition added to any other query may be refused, or be applied first, and let more projects through.
    _prepare_parts(found.query)
    return all_projects().filter(pk__in=found.values("pk"))


def _is_plain(query: Query) -> bool:
    """Return whether a further condition leaves some of the rows of ``query``, and never finds others."""
    return not (query.is_sliced or query.combinator or query.distinct_fields or query.annotations)


def _is_whole_table(query: Query) -> bool:
    """Return whether ``query`` is one of Django's own and has all rows of its table; in doubt it has not."""
    return type(query) is Query and _is_plain(query) and not (query.where or query.extra or query.extra_tables)


def _prepare_parts(query: Query) -> None:
    """Prepare the parts of a union and its like for being reduced to their primary keys.

    The orderings inside, such as a model's own, are cleared, since SQLite refuses them there.

    :raises ConfigurationError: an intersection compares more than projects, and has more of them by their keys.
    """
    for part in query.combined_queries:
        if query.combinator == "intersection" and part.annotations:
            raise ConfigurationError(f"{conf.ACCESS_POLICY}.visible_projects() intersects annotated querysets.")
        part.clear_ordering()
        _prepare_parts(part)


def visible_repositories(user: Any) -> CodeRepositoryQuerySet:
    """Return the repositories of the projects that ``user`` may see."""
    projects = visible_projects(user)
    if _is_whole_table(projects.query):
        # Every repository has a project: a join with all of them would find nothing out.
        return CodeRepository.objects.all()
    return CodeRepository.objects.in_projects(projects.values("pk"))


def projects_to_check(user: Any) -> models.QuerySet[Any] | None:
    """Return the projects that ``user`` may see; ``None`` if that is all of them, so that no check is needed."""
    projects = visible_projects(user)
    return None if _is_whole_table(projects.query) else projects


def find_project(user: Any, project_id: object) -> Any:
    """Return a project by its key; of a project itself, the one in the database.

    :raises NotFound: it is unknown, malformed, or not visible to ``user``: all look the same.
    """
    if isinstance(project_id, models.Model):
        project_id = project_id.pk
    if isinstance(project_id, str) and "\0" in project_id:
        raise NotFound  # before PostgreSQL refuses to be asked for it
    try:
        project = visible_projects(user).filter(pk=project_id).first()
    except (ValueError, ValidationError, OverflowError):
        project = None
    if project is None:
        raise NotFound
    return project


def require(user: Any, action: Action, project_id: object) -> None:
    """Let pass only who may do ``action`` in a project; never anonymous callers, whatever the policy.

    :raises PermissionDenied: the policy does not allow it.
    """
    if not getattr(user, "is_authenticated", False) or not policy().allows(user, action, project_id):
        raise PermissionDenied


_RATE: Final = re.compile(r"([1-9]\d{0,8})/(s|sec|second|m|min|minute|h|hour|d|day)\Z")
_PERIOD_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parse_rate(rate: str) -> tuple[int, int]:
    """Return ``60/hour`` as how many in how many seconds.

    :raises ConfigurationError: the text is not a valid rate.
    """
    match = _RATE.match(rate)
    if not match:
        raise ConfigurationError(f"{rate!r} is not a valid rate; write one like 60/hour.")
    return int(match[1]), _PERIOD_SECONDS[match[2][0]]


def spend_connect_quota(project_id: object) -> None:
    """Count one connect call of a project in the current window.

    :raises Throttled: the project has used up ``CONNECT_RATE_PER_PROJECT``; ``retry_after_seconds`` says when it ends.
    """
    allowed, period_seconds = parse_rate(conf.CONNECT_RATE_PER_PROJECT)
    window, elapsed_seconds = divmod(int(time.time()), period_seconds)
    key = f"coderepos:connect:{project_id}:{window}"
    cache.add(key, 0, timeout=period_seconds)
    try:
        calls = cache.incr(key)
    except ValueError:
        # The entry is gone at once: a cache that keeps nothing, or one that is full.
        calls = 1
    if calls > allowed:
        raise Throttled(retry_after_seconds=period_seconds - elapsed_seconds)
