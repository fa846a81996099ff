"""Filters whose choices are known without a look at the rows, of which there are many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from coderepos.exceptions import RequestError, error_classes
from coderepos.git.platforms import PLATFORMS
from coderepos.models import Node, TokenStatus
from coderepos.models.token_status import has_token_status


class KnownValuesFilter(admin.SimpleListFilter):
    """Narrows rows down by one of the values that a column can have."""

    def values(self) -> Iterable[str]:
        """Return the values to choose from."""
        raise NotImplementedError

    def condition(self, value: str) -> Q:
        """Return what a chosen value stands for."""
        return Q(**{str(self.parameter_name): value})

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer every value."""
        return [(value, value) for value in self.values()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows with the chosen value; all of them for one that is none."""
        value = self.value()
        return queryset if value is None or value not in self.values() else queryset.filter(self.condition(value))


class TokenStatusFilter(KnownValuesFilter):
    """What is known about the token."""

    title = "token"
    parameter_name = "token_status"

    def values(self) -> list[str]:
        """Return every status."""
        return list(TokenStatus.values)

    def condition(self, value: str) -> Q:
        """Return the condition of a status."""
        return has_token_status(TokenStatus(value))


class PlatformFilter(KnownValuesFilter):
    """Kind of the Git host."""

    title = "platform"
    parameter_name = "platform"

    def values(self) -> tuple[str, ...]:
        """Return every platform."""
        return PLATFORMS


class ErrorCodeFilter(KnownValuesFilter):
    """Code of the error that a job ended with."""

    title = "error code"
    parameter_name = "error_code"

    def values(self) -> list[str]:
        """Return every code but those of refused requests."""
        return sorted(error_classes().keys() - error_classes(RequestError).keys())


class NodeFilter(KnownValuesFilter):
    """The machine."""

    title = "node"
    parameter_name = "node"

    def values(self) -> list[str]:
        """Return the name of every machine."""
        return list(Node.objects.order_by("name").values_list("name", flat=True))
