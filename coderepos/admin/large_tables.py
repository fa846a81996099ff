"""Lists of tables that grow without end: each page, count, order, filter and search follows an index, or is bounded."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from coderepos.admin.base import ReadOnlyAdmin
from coderepos.models.bounded_paginator import MOST_COUNTED, BoundedPaginator, count_bounded


class BoundedChangeList(ChangeList):
    """A list that says in its heading when there are more rows than it leads to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.paginator.found > MOST_COUNTED:
            self.title = f"{self.title}: the first {MOST_COUNTED:,} of more, which a filter narrows down"

    def get_ordering_field(self, field_name: Any) -> Any:
        """Return what a column is ordered by: nothing but what the page offers, whatever its address says."""
        offered: Any = self.sortable_by
        return super().get_ordering_field(field_name) if field_name in offered else None


class LargeTableAdmin(ReadOnlyAdmin):
    """Rows of a large table, to read."""

    paginator = BoundedPaginator
    show_full_result_count = False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the list that knows its bound."""
        return BoundedChangeList

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Refuse to act on more rows at once than the list counts: it offers all of those, and all would be meant."""
        is_for_all = request.POST.get("select_across", "0") != "0"
        if not is_for_all or count_bounded(queryset) <= MOST_COUNTED:
            return super().response_action(request, queryset, *args, **kwargs)
        text = f"Nothing was done: there are more than {MOST_COUNTED:,}, which a filter narrows down."
        self.message_user(request, text, messages.WARNING)
        return HttpResponseRedirect(request.get_full_path())

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Return the rows that every word of a search finds, and that none of them comes twice."""
        for word in search_term.split():
            queryset = queryset.filter(self.condition(word))
        return queryset, False

    def condition(self, word: str) -> Q:
        """Return what a word of a search stands for."""
        raise NotImplementedError


def id_begins(word: str, name: str = "id") -> Q:
    """Return the condition that a UUID begins with these digits: a range, which an index knows; none if it cannot."""
    digits = word.replace("-", "").lower()
    try:
        first, last = uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))
    except ValueError:
        return Q(pk__in=())
    return Q(**{f"{name}__range": (first, last)})
