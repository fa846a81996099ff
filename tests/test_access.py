"""Everything is denied until the policy allows it."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.db import connection
from django.db.models import Count, Value, Window
from django.db.models.functions import RowNumber
from model_bakery import baker
from pytest_django import Settings
from rest_framework.test import APIClient

from coderepos import access
from coderepos.access import Action
from coderepos.conf import ConfigurationError
from coderepos.crypto.secret import Secret
from coderepos.exceptions import NotFound, PermissionDenied, Throttled
from coderepos.models import CodeRepository, Job, ProjectMembership, Role
from coderepos.projects.models import Project
from coderepos.services.repositories.status import find_status

pytestmark = pytest.mark.django_db
VIEWERS = {Action.VIEW}
DEVELOPERS = VIEWERS | {Action.CONNECT, Action.CLONE, Action.CANCEL}


class OpenPolicy:
    """A host's own policy: everybody may see everything, and do nothing."""

    def visible_projects(self, user: Any) -> Any:
        return Project.objects.all()

    def allows(self, user: Any, action: Action, project_id: object) -> bool:
        return action == Action.VIEW


@pytest.fixture
def project() -> Project:
    return baker.make(Project)


def member(project: Project, role: str, **values: Any) -> Any:
    """Return a user with a role in a project."""
    user = baker.make(get_user_model(), **{"is_active": True, **values})
    baker.make(ProjectMembership, project=project, user=user, role=role)
    return user


@pytest.mark.parametrize(
    ("role", "allowed"), [(Role.VIEWER, VIEWERS), (Role.DEVELOPER, DEVELOPERS), (Role.MAINTAINER, set(Action))]
)
def test_each_role_includes_the_one_before(project: Project, role: Role, allowed: set[Action]) -> None:
    """A role may do exactly what the table of the API says."""
    user = member(project, role)

    assert {action for action in Action if access.policy().allows(user, action, project.pk)} == allowed
    for action in set(Action) - allowed:
        with pytest.raises(PermissionDenied):
            access.require(user, action, project.pk)


def test_role_in_one_project_means_nothing_in_another(project: Project) -> None:
    """A maintainer of one project is a stranger in the next."""
    user = member(project, Role.MAINTAINER)
    other = baker.make(Project)

    assert list(access.visible_projects(user)) == [project]
    with pytest.raises(NotFound):
        access.find_project(user, str(other.pk))
    with pytest.raises(PermissionDenied):
        access.require(user, Action.VIEW, other.pk)


@pytest.mark.parametrize("key", ["", "x", "../..", "\0", "0" * 5_000, "550e8400-e29b-41d4-a716-446655440000"])
def test_unknown_and_malformed_projects_look_the_same(project: Project, key: str) -> None:
    """No spelling of an id that is not there raises anything but NotFound."""
    with pytest.raises(NotFound):
        access.find_project(member(project, Role.VIEWER), key)


def test_nobody_without_an_account(project: Project, settings: Settings) -> None:
    """Anonymous and inactive users see nothing, even where a host's policy forgets them."""
    inactive = member(project, Role.MAINTAINER, is_active=False)
    assert not access.visible_projects(inactive).exists()
    assert not access.policy().allows(inactive, Action.VIEW, project.pk)

    settings.CODEREPOS = {**settings.CODEREPOS, "ACCESS_POLICY": "tests.test_access.OpenPolicy"}
    assert not access.visible_projects(AnonymousUser()).exists()


@pytest.mark.parametrize(
    "kind", ["slice", "union", "difference", "ordered", "distinct", "distinct on", "window", "aggregate"]
)
def test_policy_may_return_any_queryset(
    project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Lists, pages, projects by their key and the search work on those that filters do not narrow, or make wider."""
    if kind == "distinct on" and connection.vendor != "postgresql":
        pytest.skip("DISTINCT ON is PostgreSQL's")
    other = baker.make(Project, name="zzz")
    rows = [
        baker.make(CodeRepository, project=one, git_url="https://h/r", token_ciphertext=Secret(""))
        for one in (project, other)
    ]
    mine, theirs = Project.objects.filter(pk=project.pk), Project.objects.filter(pk=other.pk)
    made = {
        "slice": Project.objects.order_by("name")[:1],
        "union": mine.union(mine),
        "difference": Project.objects.difference(theirs),
        "ordered": mine.order_by("-name"),
        "distinct": mine.distinct(),
        "window": Project.objects.annotate(place=Window(RowNumber(), order_by="name")).filter(place=1),
        "distinct on": Project.objects.order_by("code_repositories__git_url", "name").distinct(
            "code_repositories__git_url"
        ),
        "aggregate": mine.annotate(members=Count("code_repo_members")).filter(members=0),
    }
    settings.CODEREPOS = {**settings.CODEREPOS, "ACCESS_POLICY": "tests.test_access.OpenPolicy"}
    Project.objects.filter(pk=project.pk).update(name="aaa")
    monkeypatch.setattr(OpenPolicy, "visible_projects", lambda policy, user: made[kind], raising=False)
    user = baker.make(get_user_model(), is_active=True)

    assert list(access.visible_repositories(user)) == rows[:1]
    assert access.find_project(user, str(project.pk)) == project
    for row in rows:
        Job.objects.create(repository=row)
    assert find_status(rows[0].pk, visible_to=user).repository == rows[0]
    with pytest.raises(NotFound):
        find_status(rows[1].pk, visible_to=user)
    with pytest.raises(NotFound):
        access.find_project(user, str(other.pk))
    client = APIClient()
    client.force_authenticate(user)
    for address in ("/api/v1/code/repos?search=h&page_size=1", f"/api/v1/code/projects/{project.pk}/repos"):
        answer = client.get(address)
        assert (answer.status_code, answer.json()["count"]) == (200, 1)
    assert client.get(f"/api/v1/code/repos/{rows[1].pk}").status_code == 404


def test_policy_that_intersects_annotations_is_refused(
    project: Project, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Projects that differ in an annotation are not in both halves; by their keys alone they would be."""
    settings.CODEREPOS = {**settings.CODEREPOS, "ACCESS_POLICY": "tests.test_access.OpenPolicy"}
    halves = [Project.objects.order_by().annotate(role=Value(role)) for role in ("viewer", "developer")]
    met = halves[0].intersection(halves[1])
    monkeypatch.setattr(OpenPolicy, "visible_projects", lambda policy, user: met, raising=False)

    assert not met.exists()
    with pytest.raises(ConfigurationError, match="annotated"):
        access.find_project(member(project, Role.VIEWER), project.pk)


def test_policy_that_returns_no_queryset_is_named(project: Project, settings: Settings, monkeypatch: Any) -> None:
    """The operator is told what to mend."""
    settings.CODEREPOS = {**settings.CODEREPOS, "ACCESS_POLICY": "tests.test_access.OpenPolicy"}
    monkeypatch.setattr(OpenPolicy, "visible_projects", lambda policy, user: [project], raising=False)

    with pytest.raises(ConfigurationError, match=r"OpenPolicy\.visible_projects"):
        access.visible_projects(member(project, Role.VIEWER))


def test_superuser_may_do_everything(project: Project) -> None:
    """Superusers need no membership."""
    user = baker.make(get_user_model(), is_active=True, is_superuser=True)

    assert list(access.visible_projects(user)) == [project]
    access.require(user, Action.DELETE, project.pk)


def test_unknown_role_allows_nothing(project: Project) -> None:
    """A role that this version does not know is none."""
    assert not access.policy().allows(member(project, "owner"), Action.VIEW, project.pk)


def test_host_replaces_the_policy(project: Project, settings: Settings) -> None:
    """The class named by ACCESS_POLICY decides, read live."""
    settings.CODEREPOS = {**settings.CODEREPOS, "ACCESS_POLICY": "tests.test_access.OpenPolicy"}
    user = baker.make(get_user_model())

    assert access.find_project(user, str(project.pk)) == project
    with pytest.raises(PermissionDenied):
        access.require(user, Action.CONNECT, project.pk)


def test_quota_of_a_project(project: Project, settings: Settings) -> None:
    """The call after the last allowed one is refused, and told when to come back; other projects are not concerned."""
    cache.clear()
    settings.CODEREPOS = {**settings.CODEREPOS, "CONNECT_RATE_PER_PROJECT": "2/day"}
    access.spend_connect_quota(project.pk)
    access.spend_connect_quota(project.pk)

    with pytest.raises(Throttled) as refused:
        access.spend_connect_quota(project.pk)

    wait_seconds = refused.value.fields["retry_after_seconds"]
    assert isinstance(wait_seconds, int)
    assert 0 < wait_seconds <= 86_400
    access.spend_connect_quota("another")


def test_quota_without_a_cache_that_keeps_anything(project: Project, settings: Settings) -> None:
    """A host whose cache keeps nothing has no quota, and no error."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    settings.CODEREPOS = {**settings.CODEREPOS, "CONNECT_RATE_PER_PROJECT": "1/day"}

    for _ in range(3):
        access.spend_connect_quota(project.pk)


@pytest.mark.parametrize("rate", ["", "60", "0/hour", "60/fortnight", "-1/hour", "60/hour ", "many/hour"])
def test_rate_that_is_none(rate: str) -> None:
    """A rate that cannot be read is a configuration error."""
    with pytest.raises(ConfigurationError):
        access.parse_rate(rate)


@pytest.mark.parametrize(("rate", "read"), [("60/hour", (60, 3600)), ("5/m", (5, 60)), ("1/day", (1, 86400))])
def test_rate_as_in_rest_framework(rate: str, read: tuple[int, int]) -> None:
    """Rates are written as in Django REST Framework."""
    assert access.parse_rate(rate) == read


class SessionsAsProjects:
    """A policy of a host whose projects have texts as keys, as sessions have."""

    def visible_projects(self, user: Any) -> Any:
        return Session.objects.all()


@pytest.mark.parametrize("key", ["no\0where", "\ud800", "", "x" * 5_000])
def test_a_text_that_is_no_key_is_unknown(settings: Settings, key: str) -> None:
    """PostgreSQL takes no NUL, which is no reason for an error of ours."""
    settings.CODEREPOS = {**settings.CODEREPOS, "ACCESS_POLICY": f"{__name__}.SessionsAsProjects"}

    with pytest.raises(NotFound):
        access.find_project(baker.make(get_user_model()), key)
