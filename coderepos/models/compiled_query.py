"""Queries that are asked all the time: Django takes longer to put one together than PostgreSQL to answer it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import Expression, Field, QuerySet
from django.db.models.sql.compiler import SQLCompiler


class Parameter(Expression):
    """A value that a compiled query gets each time it is asked."""

    def __init__(self, name: str, field: Field[Any, Any]) -> None:
        super().__init__(output_field=field)
        self.name: Final = name

    def as_sql(self, compiler: SQLCompiler, connection: Any) -> Any:
        """Return a placeholder, and the parameter itself in the place of its value."""
        return "%s", [self]

    def prepared(self, value: Any, connection: Any) -> Any:
        """Return a value as the driver of the database takes it."""
        return self.output_field.get_db_prep_value(value, connection)


@dataclass(frozen=True)
class _Text:
    """The SQL of a query, for one database."""

    sql: str
    parameters: tuple[Any, ...]
    columns: tuple[Any, ...]
    """Those whose values Django converts; ``None`` in the places of others."""

    def parameters_with(self, values: Mapping[str, Any], connection: Any) -> list[Any]:
        """Return what the driver gets, with these values in the places of parameters."""
        return [
            one.prepared(values[one.name], connection) if isinstance(one, Parameter) else one for one in self.parameters
        ]


class CompiledQuery:
    """The first row of a queryset as a tuple, compiled when it is asked for the first time.

    :param rows: makes the queryset, by ``values_list()``; where it depends on the call it has a :class:`Parameter`.
    """

    def __init__(self, rows: Callable[[], QuerySet[Any, Any]]) -> None:
        self._rows = rows
        self._text_on: Final = cache(self._text)

    def first(
        self, values: Mapping[str, Any], *, within: tuple[str, QuerySet[Any] | None] = ("", None)
    ) -> tuple[Any, ...] | None:
        """Return the first row; ``None`` where there is none.

        :param values: those of the parameters, by their names.
        :param within: name of a column, and a queryset: the row counts only if its value there is the primary key of
            one of these objects. Where there is no queryset, it counts.
        """
        using = self._queryset.db
        connection = connections[using]
        text = self._text_on(using)
        sql, parameters = text.sql, text.parameters_with(values, connection)
        column, objects = within
        if objects is not None:
            try:
                keys, of_keys = objects.order_by().values("pk").query.get_compiler(using).as_sql()
            except EmptyResultSet:
                return None
            # By whole queries, so that no text of one can change what the other means.
            sql = f"SELECT * FROM ({sql}) found WHERE found.{connection.ops.quote_name(column)} IN ({keys})"  # noqa: S608
            parameters += of_keys
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            row = cursor.fetchone()
        if row is None:
            return None
        # A compiler knows the connection of one thread, and the text is for all of them.
        compiler = self._queryset.query.get_compiler(using)
        (converted,) = compiler.apply_converters([row], compiler.get_converters(text.columns))
        return tuple(converted)

    @cached_property
    def _queryset(self) -> QuerySet[Any, Any]:
        return self._rows()[:1]

    def _text(self, using: str) -> _Text:
        compiler = self._queryset.query.get_compiler(using)
        sql, parameters = compiler.as_sql()
        columns = [column for column, *_ in compiler.select]
        converted = compiler.get_converters(columns)
        return _Text(
            sql, tuple(parameters), tuple(column if at in converted else None for at, column in enumerate(columns))
        )
