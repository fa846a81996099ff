"""Lists of the admin over tables that grow without end: what they offer is found, counted and ordered by indexes."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from model_bakery import baker

from coderepos.admin import large_tables
from coderepos.crypto.secret import Secret
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Job, JobState, Node, TokenStatus, bounded_paginator
from coderepos.models.token_status import token_status_at
from coderepos.projects.models import Project

pytestmark = pytest.mark.django_db


def listed(client: Client, model: str, query: str) -> list[Any]:
    """Return the rows that a list shows."""
    answer = client.get(reverse(f"admin:coderepos_{model}_changelist") + query)
    assert answer.status_code == 200, query
    return list(answer.context["cl"].result_list)


@pytest.fixture
def repositories() -> list[CodeRepository]:
    """Three of them, the first with an error."""
    project = baker.make(Project)
    return [
        CodeRepository.objects.create(
            project=project,
            git_url=f"https://github.com/owner/{name}.git",
            token_ciphertext=Secret(""),
            node=f"node-{name}",
            error_code="remote_timeout" if name == "first" else "",
        )
        for name in ("first", "second", "third")
    ]


def test_repositories_are_found(admin_client: Client, repositories: list[CodeRepository]) -> None:
    """By filters whose choices no row was asked for, by parts of texts, and by how their id begins."""
    first, second, _ = repositories
    Node.objects.create(name="node-second")

    assert listed(admin_client, "coderepository", "?error_code=remote_timeout") == [first]
    assert listed(admin_client, "coderepository", "?node=node-second") == [second]
    assert len(listed(admin_client, "coderepository", "?platform=github")) == 3
    assert listed(admin_client, "coderepository", "?platform=gitlab") == []
    assert listed(admin_client, "coderepository", "?q=OWNER/Sec") == [second]
    assert listed(admin_client, "coderepository", f"?q={second.pk}") == [second]
    assert second in listed(admin_client, "coderepository", f"?q={str(second.pk)[:9]}")
    assert listed(admin_client, "coderepository", "?q=first+owner") == [first]


def test_jobs_are_found(admin_client: Client, repositories: list[CodeRepository]) -> None:
    """By their repository's URL, their id, their error and their machine."""
    jobs = [
        Job.objects.create(repository=one, error_code=one.error_code, node=one.node, state=JobState.FAILED)
        for one in repositories
    ]
    Node.objects.create(name="node-second")

    assert listed(admin_client, "job", "?q=owner/second") == [jobs[1]]
    assert listed(admin_client, "job", f"?q={jobs[2].pk.hex[:20]}") == [jobs[2]]
    assert listed(admin_client, "job", "?q=nothing") == []
    assert listed(admin_client, "job", "?error_code=remote_timeout") == [jobs[0]]
    assert listed(admin_client, "job", "?node=node-second") == [jobs[1]]


def test_entries_are_found(admin_client: Client, repositories: list[CodeRepository]) -> None:
    """By who did it, and by the ids of what it was done with."""
    job_id = uuid.uuid4()
    entry = AuditEntry.objects.record(AuditEvent.CONNECTED, repository=repositories[0], job_id=job_id)
    AuditEntry.objects.bulk_create([AuditEntry(event="rekeyed", actor_name="somebody")])
    other = AuditEntry.objects.get(event="rekeyed")

    AuditEntry.objects.bulk_create([AuditEntry(event="connected", actor_name="Jane Doe")])

    assert listed(admin_client, "auditentry", "?q=somebody") == [other]
    assert [one.actor_name for one in listed(admin_client, "auditentry", "?q=Jane+Doe")] == ["Jane Doe"]
    for found in (repositories[0].pk, str(repositories[0].pk)[:10], job_id, repositories[0].project_id):
        assert listed(admin_client, "auditentry", f"?q={found}") == [entry]


@pytest.mark.parametrize("model", ["auditentry", "coderepository", "job"])
def test_order_is_one_that_is_offered(admin_client: Client, repositories: list[CodeRepository], model: str) -> None:
    """An address can ask for no order that the page does not offer."""
    address = reverse(f"admin:coderepos_{model}_changelist")
    usual = admin_client.get(address).context["cl"]
    others = [number for number, name in enumerate(usual.list_display) if name not in usual.sortable_by]

    changelist = admin_client.get(f"{address}?o={'.'.join(map(str, others))}").context["cl"]

    assert others
    assert {*changelist.queryset.query.order_by} <= {"-pk", "-created_at", "-id"}


@pytest.mark.parametrize("counted", [2, 3])
def test_list_says_that_there_is_more(
    admin_client: Client, repositories: list[CodeRepository], counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows are not counted to their end, the heading says so, and the pages end there."""
    for module in (bounded_paginator, large_tables):
        monkeypatch.setattr(module, "MOST_COUNTED", counted)

    changelist = admin_client.get(reverse("admin:coderepos_coderepository_changelist")).context["cl"]

    assert changelist.result_count == counted
    assert ("of more" in changelist.title) is (counted == 2)


@pytest.mark.parametrize(("counted", "left"), [(2, 3), (3, 0)])
def test_no_action_takes_more_rows_than_the_list_counts(
    admin_client: Client, repositories: list[CodeRepository], counted: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list offers to select all that it counts; where there are more, an action on all of them does nothing."""
    for module in (bounded_paginator, large_tables):
        monkeypatch.setattr(module, "MOST_COUNTED", counted)
    selected = {"action": "delete_selected", "select_across": "1", "_selected_action": repositories[0].pk}

    admin_client.post(reverse("admin:coderepos_coderepository_changelist"), {**selected, "post": "yes"})

    assert CodeRepository.objects.count() == left


def test_later_pages(admin_client: Client, repositories: list[CodeRepository], monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a later page are those that follow, in the order of the list."""
    monkeypatch.setattr(large_tables.LargeTableAdmin, "list_per_page", 2)

    shown = [listed(admin_client, "coderepository", f"?o=1&p={page}") for page in (1, 2)]

    assert [one.git_url.rpartition("/")[2] for page in shown for one in page] == [
        "first.git",
        "second.git",
        "third.git",
    ]


def test_all_ways_to_a_token_status_agree(admin_client: Client, repositories: list[CodeRepository]) -> None:
    """Every repository is found under the status that it shows, and under no other; Python says the same."""
    now = datetime.now(UTC)
    ends = [None, now - timedelta(days=1), now + timedelta(days=1), now + timedelta(days=99)]
    rows = [(has, accepted, end) for has in (True, False) for accepted in (True, False, None) for end in ends]
    CodeRepository.objects.bulk_create(
        CodeRepository(
            project=repositories[0].project,
            git_url=f"https://github.com/owner/{number}.git",
            token_ciphertext=Secret("ghp_NobodyMayEverReadThis" if has else ""),
            token_accepted=accepted,
            token_expires_at=end,
        )
        for number, (has, accepted, end) in enumerate(rows)
    )

    shown = {
        status: {one.pk for one in listed(admin_client, "coderepository", f"?token_status={status}")}
        for status in TokenStatus.values
    }

    expected: dict[str, set[Any]] = {status: set() for status in TokenStatus.values}
    for one in CodeRepository.objects.with_token_status().annotate(now=Now()):
        expected[one.token_status].add(one.pk)
        assert token_status_at(one, vars(one)["now"]) == one.token_status
    assert shown == expected
    assert all(expected.values())
