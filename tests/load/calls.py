"""Whatever a site does often: every endpoint, every page of the admin, and the rounds of workers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from django.contrib import admin
from django.test import Client
from django.urls import reverse
from rest_framework.authtoken.models import Token

from coderepos import services
from coderepos.api.listing import ORDERINGS
from coderepos.models import Node
from coderepos.models.fair_claim import claim_next
from coderepos.services.health.database import database_findings
from coderepos.services.health.signs import read_signs
from tests.load.filling import ERROR_CODE, NODE, Filled

EMPTY: Final = "/empty"
API: Final = "/api/v1/code"
APPS: Final = ("coderepos", "coderepos_projects")
"""Those whose models the admin shows."""


MANY: Final = 20


@dataclass(frozen=True)
class Call:
    """Something to do, by name."""

    name: str
    run: Callable[[], object]
    page: str = ""
    """Of a page with filters and orders: the page without them."""

    changes: bool = False
    """Whether it is undone after each run."""

    reads_urls: bool = False
    """Whether it looks for a part of a URL, and so reads all of them that the caller may see."""


def empty_call(filled: Filled) -> Call:
    """Return the call of a view that does nothing."""
    client = _client(filled.member)
    return Call("an empty view", lambda: _checked(client.get(EMPTY)))


def api_calls(filled: Filled) -> Iterator[Call]:
    """Yield every endpoint that asks no Git host, for a member of twenty projects and for who sees all of them."""
    names = {
        str(filled.repository.pk): "{repo}",
        str(filled.project.pk): "{project}",
        str(filled.last_waiting.repository_id): "{last of the backlog}",
    }

    def get(path: str, user: Any, who: str) -> Call:
        client, shown = _client(user), path
        for text, name in names.items():
            shown = shown.replace(text, name)
        reads_urls = "search=" in path
        return Call(f"`GET {shown}`, {who}", lambda: _checked(client.get(API + path)), reads_urls=reads_urls)

    repository = f"/repos/{filled.repository.pk}"
    project = f"/projects/{filled.project.pk}/repos"
    for path in ("", "/status", "/jobs", "/audit"):
        yield get(repository + path, filled.member, "a member")
    yield get(f"/repos/{filled.last_waiting.repository_id}/status", filled.superuser, "a superuser")
    for path in ("/repos", "/repos?status=FAILED&platform=github", f"/repos?project={filled.project.pk}", project):
        yield get(path, filled.member, "a member")
    for path in ("/repos", "/repos?status=CLONING", "/repos?platform=github", "/repos?search=repository-17"):
        yield get(path, filled.superuser, "a superuser")
    for name in ORDERINGS:
        for sign in ("", "-"):
            yield get(f"/repos?ordering={sign}{name}", filled.superuser, "a superuser")
    member = _client(filled.member)

    def change(name: str, call: Callable[[str], Any], repository: Any, path: str) -> Call:
        return Call(name, lambda: _checked(call(f"{API}/repos/{repository.pk}{path}")), changes=True)

    yield change("`POST /repos/{repo}/clone`", member.post, filled.failed, "/clone")
    yield change("`POST /repos/{repo}/cancel`", member.post, filled.pending, "/cancel")
    yield change("`POST /repos/{repo}/clean`", member.post, filled.repository, "/clean")
    yield change("`DELETE /repos/{repo}`", member.delete, filled.repository, "")


def work_calls(filled: Filled) -> Iterator[Call]:
    """Yield what workers do again and again."""
    yield Call("claim of a job", lambda: claim_next(node=NODE, lease_token=uuid.uuid4()), changes=True)
    yield Call("upkeep tick", services.worker.reap, changes=True)
    node = Node.objects.get(name=NODE)
    yield Call("disk round", lambda: services.worker.run_disk_round(node), changes=True)
    yield Call("health, short", lambda: read_signs().fault)
    yield Call("health, whole", lambda: list(database_findings()))


def admin_calls(filled: Filled) -> Iterator[Call]:
    """Yield the pages of everything of ours in the admin: lists with each filter and order, the last page, one row."""
    client = Client()
    client.force_login(filled.superuser)

    def page(address: str, of: str = "") -> Call:
        shown = address.split("?")[-1] if of else address.removeprefix("/admin")
        call = Call(f"admin `{shown}`", lambda: _checked(client.get(address)), page=of or address)
        return replace(call, reads_urls="?q=" in address)

    for model, pages in admin.site._registry.items():
        if model._meta.app_label not in APPS:
            continue
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        row = model._default_manager.first()
        assert row is not None
        changelist = reverse(f"{name}_changelist")
        yield page(changelist)
        for address in _variants(pages, changelist, client):
            yield page(address, changelist)
        for view in ("change", "history"):
            yield page(reverse(f"{name}_{view}", args=[row.pk]), f"{changelist}{view}/")


def _variants(pages: Any, address: str, client: Client) -> Iterator[str]:
    """Yield a list with each filter, in each order, and where it ends."""
    answer = client.get(address)
    changelist = answer.context["cl"]
    yield f"{address}?p={changelist.paginator.num_pages}"
    if pages.search_fields:
        yield f"{address}?q=00000000"
        yield f"{address}?q={Node.objects.get().name}"
    for spec in changelist.filter_specs:
        links = [choice["query_string"] for choice in spec.choices(changelist) if not choice["selected"]]
        # Of many choices, those with rows and two without.
        shown = links if len(links) < MANY else [*links[:2], *(link for link in links if ERROR_CODE in link)]
        yield from (address + link for link in shown)
    for number, column in enumerate(changelist.list_display):
        if changelist.get_ordering_field(column):
            yield f"{address}?o={number}"
            yield f"{address}?o=-{number}"


def _client(user: Any) -> Client:
    token, _ = Token.objects.get_or_create(user=user)
    return Client(headers={"Authorization": f"Token {token.key}"})


def _checked(answer: Any) -> Any:
    assert answer.status_code in (200, 202, 204), answer.content[:500]
    return answer
