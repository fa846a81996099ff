"""Pages of lists that go on from a row, so that the thousandth page costs what the first one does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

from django.core import signing
from django.db import models
from django.db.models import F, Q, Value
from django.db.models.expressions import Combinable, OrderBy
from django.db.models.functions import Cast
from django.db.models.lookups import Exact, GreaterThan, GreaterThanOrEqual, LessThan, LessThanOrEqual
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param

from coderepos.exceptions import NotFound
from coderepos.models.bounded_paginator import MOST_COUNTED, BoundedPaginator, count_bounded

_VALUE: Final = "cursor_value"
_ID: Final = "cursor_id"


class KeysetPagination(PageNumberPagination):
    """Pages of a size that the caller may choose within a bound, with links to those around; numbers lead to the first.

    A list must be ordered by an expression that is never null, and by its unique key after that.
    """

    page_size = 50
    page_query_param = "page"
    page_size_query_param = "page_size"
    max_page_size = 200
    cursor_query_param: Final = "cursor"
    django_paginator_class = BoundedPaginator

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        """Return the rows of the page that the query string asks for.

        :raises NotFound: there is no such page, or the cursor is not one of this list in this order.
        """
        self._address = request.build_absolute_uri()
        self._size = self.get_page_size(request) or self.page_size
        self._order = _Order.of(queryset)
        self._salt = f"coderepos.cursor.{request.path}.{request.query_params.get('ordering', '')}"
        rows = self._order.with_position(queryset)
        if cursor := request.query_params.get(self.cursor_query_param):
            return self._after_cursor(rows, self._read(cursor))
        found: list[Any] = super().paginate_queryset(rows, request, view) or []
        page: Any = self.page
        self._count = page.paginator.found
        self._set_links(found, next=page.has_next() or self._count > MOST_COUNTED, previous=page.has_previous())
        return found

    def _after_cursor(self, rows: Any, position: _Position) -> list[Any]:
        self._count = count_bounded(rows)
        found = list(self._order.beyond(rows, position)[: self._size + 1])
        page, is_cut = found[: self._size], len(found) > self._size
        if position.backwards:
            page.reverse()
        self._set_links(page, next=position.backwards or is_cut, previous=is_cut or not position.backwards)
        return page

    def _set_links(self, page: list[Any], *, next: bool, previous: bool) -> None:  # noqa: A002  the names of the links
        self._next = self._link(page[-1], backwards=False) if page and next else None
        self._previous = self._link(page[0], backwards=True) if page and previous else None

    def _link(self, row: Any, *, backwards: bool) -> str:
        position = [getattr(row, _VALUE), getattr(row, _ID), backwards]
        address = remove_query_param(self._address, self.page_query_param)
        cursor = signing.dumps(position, salt=self._salt, compress=True)
        return str(replace_query_param(address, self.cursor_query_param, cursor))

    def _read(self, cursor: str) -> _Position:
        try:
            return _Position(*signing.loads(cursor, salt=self._salt))
        except signing.BadSignature:
            raise NotFound from None

    def get_paginated_response(self, data: Any) -> Response:
        """Return the page with its links; ``count`` is null where there are more rows than are counted."""
        count = None if self._count > MOST_COUNTED else self._count
        return Response({"count": count, "next": self._next, "previous": self._previous, "results": data})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the description of a page."""
        page: dict[str, Any] = super().get_paginated_response_schema(schema)
        page["properties"]["count"] |= {
            "nullable": True,
            "description": f"Rows of all pages; null where there are more than {MOST_COUNTED:,}.",
        }
        return page

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """Return the description of the query parameters."""
        cursor = {
            "name": self.cursor_query_param,
            "required": False,
            "in": "query",
            "description": "Where the page begins: from the links `next` and `previous` of another page.",
            "schema": {"type": "string"},
        }
        return [*super().get_schema_operation_parameters(view), cursor]


@dataclass(frozen=True)
class _Position:
    """A row that a page begins after, or ends before: texts that the database wrote, and reads again."""

    value: str
    row_id: str
    backwards: bool


@dataclass(frozen=True)
class _Order:
    """By which expression rows are ordered, and in which direction each by it and by their key."""

    expression: Any
    descending: bool
    id_descending: bool

    @classmethod
    def of(cls, rows: models.QuerySet[Any]) -> Self:
        """Return the order of a queryset."""
        (expression, descending), (_, id_descending) = map(_direction, rows.query.order_by)
        return cls(expression, descending, id_descending)

    def with_position(self, rows: Any) -> Any:
        """Read along what a cursor to a row is made of.

        As texts of the database: SQLite keeps its own times with fewer digits than those that Python sends.
        """
        text = models.TextField()
        return rows.annotate(**{_VALUE: Cast(self.expression, text), _ID: Cast("pk", text)})

    def beyond(self, rows: Any, position: _Position) -> Any:
        """Return the rows after a position, in this order; those before it in reverse."""
        descending = self.descending != position.backwards
        id_descending = self.id_descending != position.backwards
        value: Any = Value(position.value)
        if not isinstance(self.expression, F):
            value = Cast(value, self.expression.output_field)
        further, not_before = (LessThan, LessThanOrEqual) if descending else (GreaterThan, GreaterThanOrEqual)
        further_id = LessThan if id_descending else GreaterThan
        tie = Q(Exact(self.expression, value)) & Q(further_id(F("pk"), Value(position.row_id)))
        # The first condition follows from the second, and is the one that an index understands.
        rows = rows.filter(not_before(self.expression, value)).filter(Q(further(self.expression, value)) | tie)
        return rows.order_by(
            OrderBy(self.expression, descending=descending), OrderBy(F("pk"), descending=id_descending)
        )


def _direction(order: Any) -> tuple[Combinable, bool]:
    if isinstance(order, str):
        return F(order.removeprefix("-")), order.startswith("-")
    return order.expression, order.descending
