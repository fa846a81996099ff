"""Queries that are compiled once."""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import connections
from django.db.models import F, QuerySet
from pytest_django import DjangoAssertNumQueries

from coderepos.models.compiled_query import CompiledQuery, Parameter

pytestmark = pytest.mark.django_db


def by_name() -> QuerySet[Any, Any]:
    named = Group.objects.filter(name=Parameter("name", Group._meta.get_field("name")))
    return named.annotate(key=F("pk")).order_by("pk").values_list("name", "key")


def test_each_call_has_its_own_values(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    """The text is compiled once, and no value stays in it."""
    query = CompiledQuery(by_name)
    names = ["50 %s", "'; --"]
    groups = [Group.objects.create(name=name) for name in names]

    with django_assert_num_queries(3):
        found = [query.first({"name": name}) for name in [*names, "none"]]

    assert found == [*((group.name, group.pk) for group in groups), None]


def test_a_row_counts_only_within_its_objects() -> None:
    """Whatever their query is like, it is asked as a whole: its own parameters, order and joins change nothing else."""
    query = CompiledQuery(by_name)
    one, other = (Group.objects.create(name=name) for name in ("one", "other"))
    everything = Group.objects.order_by("-name")

    def found(objects: QuerySet[Any] | None) -> bool:
        return query.first({"name": "one"}, within=("key", objects)) is not None

    assert [found(everything), found(everything.distinct()), found(everything.filter(name="one")), found(None)] == [
        True
    ] * 4
    assert not found(everything.exclude(pk=one.pk))
    assert not found(everything.filter(pk=other.pk))
    assert not found(everything.none())
    assert not found(everything.filter(pk__in=[]))


@pytest.mark.django_db(transaction=True)
def test_threads_share_the_text() -> None:
    """The text outlives the connection of the thread that had it compiled."""
    query, found = CompiledQuery(by_name), []
    group = Group.objects.create(name="one")

    def ask() -> None:
        found.append(query.first({"name": "one"}))
        connections.close_all()

    for _ in range(2):
        thread = Thread(target=ask)
        thread.start()
        thread.join()

    assert found == [("one", group.pk)] * 2
