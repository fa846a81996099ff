"""Numbered pages of tables that grow without end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.core.paginator import Page, Paginator
from django.utils.functional import cached_property

MOST_COUNTED: Final = 10_000
"""Rows that are counted, and that numbers of pages lead to."""

if TYPE_CHECKING:
    _Paginator = Paginator[Any]
else:
    _Paginator = Paginator


def count_bounded(rows: Any) -> int:
    """Return how many rows a queryset has; :data:`MOST_COUNTED` and one where there are more."""
    # What is filtered has an index of its own, and what is not is counted by that of the key.
    ordered = rows.order_by() if rows.query.where else rows.order_by("pk")
    found: int = ordered.values("pk")[: MOST_COUNTED + 1].count()
    return found


class BoundedPaginator(_Paginator):
    """Counts, and leads to, no more than :data:`MOST_COUNTED` rows of a queryset."""

    @cached_property
    def found(self) -> int:
        """Return how many rows there are, or one more than are counted."""
        return count_bounded(self.object_list)

    @cached_property
    def count(self) -> int:
        """Return how many rows numbers of pages lead to."""
        return min(self.found, MOST_COUNTED)

    def page(self, number: int | str) -> Page[Any]:
        """Return a page, of which the keys are found first: rows that others come before are not read on the way."""
        number = self.validate_number(number)
        first = (number - 1) * self.per_page
        rows: Any = self.object_list
        if first:
            keys = list(rows.values_list("pk", flat=True)[first : first + self.per_page])
            return Page(rows.filter(pk__in=keys), number, self)
        return super().page(number)
