"""Pages go on from a row: every row comes once, in order, forwards and back, whatever happens in between."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from coderepos.api import pagination
from coderepos.api.listing import ORDERINGS
from coderepos.models import (
    AuditEntry,
    CloneStatus,
    CodeRepository,
    Job,
    JobState,
    ProjectMembership,
    Role,
    bounded_paginator,
)
from tests.api.conftest import ADDRESS, ClientOf, MakeRepository
from tests.support.database import connection

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
MORNING = datetime(2026, 1, 15, 8, 30, 0, 123456, tzinfo=UTC)


@pytest.fixture
def repositories(make_repository: MakeRepository) -> list[CodeRepository]:
    """Eleven of them, with ties in each order, times of both clocks, and sizes that are not known."""
    made = []
    for number in range(11):
        made.append(
            make_repository(
                git_url=f"https://github.com/owner/{number % 3}.git",
                ref=str(number),
                clone_status=CloneStatus.FAILED if number % 2 else CloneStatus.COMPLETED,
                repository_size_mb=None if number % 4 == 0 else number % 3 + 0.1,
                **({"created_at": (NOON, MORNING)[number % 2], "updated_at": NOON} if number < 6 else {}),
            )
        )
    return made


def ids(page: Any) -> list[str]:
    """Return the ids on a page."""
    return [row["repo_id"] for row in page["results"]]


def walked(api: APIClient, address: str | None, link: str) -> list[Any]:
    """Return a page and all that it leads to in one direction."""
    pages = []
    while address:
        pages.append(api.get(address).json())
        address = pages[-1][link]
    return pages


@pytest.mark.parametrize("ordering", ["", *ORDERINGS, *(f"-{name}" for name in ORDERINGS)])
def test_every_order_forwards_and_back(api: APIClient, repositories: list[CodeRepository], ordering: str) -> None:
    """Pages of three are the pages of one long list, in both directions."""
    whole = ids(api.get(f"{ADDRESS}/repos?ordering={ordering}").json())

    forwards = walked(api, f"{ADDRESS}/repos?ordering={ordering}&page_size=3", "next")
    back = walked(api, forwards[-1]["previous"], "previous")[::-1]

    assert set(whole) == {str(one.pk) for one in repositories}
    assert [ids(page) for page in forwards] == [whole[:3], whole[3:6], whole[6:9], whole[9:]]
    assert [ids(page) for page in back] == [whole[:3], whole[3:6], whole[6:9]]
    assert {page["count"] for page in forwards + back} == {11}
    assert (forwards[0]["previous"], back[0]["previous"]) == (None, None)
    assert api.get(back[0]["next"]).json()["results"] == forwards[1]["results"]


@pytest.mark.parametrize("name", ["repository_size_mb", "-repository_size_mb"])
def test_unknown_sizes_come_last(api: APIClient, repositories: list[CodeRepository], name: str) -> None:
    """Whatever the direction: what has no size is not what somebody who sorts by size looks for."""
    sizes = [row["repository_size_mb"] for row in api.get(f"{ADDRESS}/repos?ordering={name}").json()["results"]]

    known = [size for size in sizes if size is not None]
    assert sizes == sorted(known, reverse=name.startswith("-")) + [None] * 3


def test_numbers_lead_to_cursors(api: APIClient, repositories: list[CodeRepository]) -> None:
    """A page by number has the same rows, and goes on from its own last one."""
    whole = ids(api.get(f"{ADDRESS}/repos").json())

    second = api.get(f"{ADDRESS}/repos?page=2&page_size=4").json()

    assert ids(second) == whole[4:8]
    assert ids(api.get(second["next"]).json()) == whole[8:]
    assert ids(api.get(second["previous"]).json()) == whole[:4]
    assert "page=" not in second["next"].replace("page_size=", "")


def test_rows_that_come_and_go(api: APIClient, repositories: list[CodeRepository], make_repository: Any) -> None:
    """A page that was left may lose its last row and get new ones before it: the next one begins where it did."""
    whole = ids(api.get(f"{ADDRESS}/repos?ordering=-created_at").json())
    first = api.get(f"{ADDRESS}/repos?ordering=-created_at&page_size=3").json()
    CodeRepository.objects.filter(pk=whole[2]).delete()
    make_repository()

    assert ids(api.get(first["next"]).json()) == whole[3:6]


def test_cursors_are_of_one_list(api: APIClient, repositories: list[CodeRepository]) -> None:
    """What is no cursor, or that of another list or order, leads nowhere."""
    Job.objects.bulk_create(Job(repository=repositories[0], state=JobState.FAILED) for _ in range(3))
    cursors = [
        api.get(f"{ADDRESS}{path}").json()["next"].partition("cursor=")[2].partition("&")[0]
        for path in (
            f"/repos/{repositories[0].pk}/jobs?page_size=1",
            f"/projects/{repositories[0].project_id}/repos?page_size=1",
            "/repos?page_size=1&ordering=git_url",
        )
    ]

    for cursor in (*cursors, "x", "%00", "a:b:c"):
        answer = api.get(f"{ADDRESS}/repos?cursor={cursor}")
        assert (answer.status_code, answer.json()["detail"]["error"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["jobs", "audit"])
def test_histories(client_of: ClientOf, developer: User, repository: CodeRepository, path: str) -> None:
    """Jobs and entries of the trail have pages of the same kind."""
    ProjectMembership.objects.filter(user=developer).update(role=Role.MAINTAINER)
    Job.objects.bulk_create(Job(repository=repository, state=JobState.FAILED) for _ in range(5))
    AuditEntry.objects.bulk_create(AuditEntry(event="connected", repository_id=repository.pk) for _ in range(5))
    api = client_of(developer)
    whole = api.get(f"{ADDRESS}/repos/{repository.pk}/{path}").json()["results"]

    pages = walked(api, f"{ADDRESS}/repos/{repository.pk}/{path}?page_size=2", "next")

    assert [row for page in pages for row in page["results"]] == whole
    assert len(whole) == 5


def test_counting_ends(api: APIClient, repositories: list[CodeRepository], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound rows are not counted and numbers lead nowhere, while the links lead to every row."""
    for module in (bounded_paginator, pagination):
        monkeypatch.setattr(module, "MOST_COUNTED", 5)

    pages = walked(api, f"{ADDRESS}/repos?page_size=3", "next")

    assert {page["count"] for page in pages} == {None}
    assert len({one for page in pages for one in ids(page)}) == 11
    assert api.get(f"{ADDRESS}/repos?page_size=3&page=2").status_code == 200
    assert api.get(f"{ADDRESS}/repos?page_size=3&page=3").status_code == 404


def test_no_page_is_skipped_to(api: APIClient, repositories: list[CodeRepository]) -> None:
    """No link makes the database read the rows of earlier pages."""
    last = walked(api, f"{ADDRESS}/repos?page_size=2", "next")[-1]

    with CaptureQueriesContext(connection) as queries:
        api.get(last["previous"])

    assert not [query["sql"] for query in queries if "OFFSET" in query["sql"]]
