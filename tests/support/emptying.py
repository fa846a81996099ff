"""A quicker end of the tests that commit: Django's own truncates all tables, and fills some again as ``migrate`` does.

Most such tests leave a few rows in a few tables. Those are deleted, and what ``migrate`` left stays where it is. A test
that leaves more, or changed what ``migrate`` left, is followed by Django's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TransactionTestCase

FILLED_BY_MIGRATE: Final = ("django_content_type", "auth_permission", "django_q_schedule")
MANY_ROWS: Final = 500
"""To truncate costs less than to delete so many, and leaves nothing dead that the next tests have to read over."""


@dataclass(frozen=True)
class Migrated:
    """What a database has after ``migrate``: the names of its tables, and the rows of those that are not empty."""

    tables: list[str]
    rows: list[list[Any]]

    @classmethod
    def read(cls, connection: BaseDatabaseWrapper) -> Migrated:
        """Return what a database has now."""
        tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
        return cls(tables, _rows(connection, tables))

    def restore(self, connection: BaseDatabaseWrapper) -> bool:
        """Delete the rows that are in a database beside these, and return whether that makes it what it was."""
        try:
            if self.rows != _rows(connection, self.tables):
                return False
            with transaction.atomic(using=connection.alias):
                return self._delete_others(connection)
        except DatabaseError:
            return False

    def _delete_others(self, connection: BaseDatabaseWrapper) -> bool:
        quoted = [connection.ops.quote_name(name) for name in self.tables if name not in FILLED_BY_MIGRATE]
        with connection.cursor() as cursor:
            cursor.execute(
                " UNION ALL ".join(
                    f"SELECT {number}, EXISTS (SELECT 1 FROM {table} LIMIT 1 OFFSET {MANY_ROWS})"  # noqa: S608
                    f" WHERE EXISTS (SELECT 1 FROM {table})"
                    for number, table in enumerate(quoted)
                )
            )
            filled = cursor.fetchall()
            if any(many for _, many in filled):
                return False
            for number, _ in filled:
                cursor.execute(f"DELETE FROM {quoted[number]}")  # noqa: S608
        return True


def install() -> None:
    """Let the tests that commit end by what is quicker."""
    # Neither pytest-django nor Django has a documented place for it.
    flush = vars(TransactionTestCase)["_fixture_teardown"]
    migrated: dict[str, Migrated] = {}

    def end(case: Any) -> None:
        used = [connections[alias] for alias in case._databases_names(include_mirrors=False)]
        plain = case.available_apps is None and not case.serialized_rollback
        if plain and all(one.alias in migrated and migrated[one.alias].restore(one) for one in used):
            return
        flush(case)
        migrated.update({one.alias: Migrated.read(one) for one in used} if plain else {})

    TransactionTestCase._fixture_teardown = end  # type: ignore[attr-defined]


def _rows(connection: BaseDatabaseWrapper, tables: list[str]) -> list[list[Any]]:
    rows = []
    with connection.cursor() as cursor:
        for name in sorted(set(tables).intersection(FILLED_BY_MIGRATE)):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(name)} ORDER BY id")  # noqa: S608
            rows.append(cursor.fetchall())
    return rows
