"""The plans of all statements that a call sends to PostgreSQL, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from coderepos.models.bounded_paginator import MOST_COUNTED
from tests.support.database import connection

MOST_SORTED_ROWS: Final = 1_500
"""More rows than one project or one history has; a sort of so many follows no index."""

MOST_REJECTED_ROWS: Final = 1_500
"""Rows that one scan may read in vain."""

MOST_READ_FOR_A_COUNT: Final = 4 * MOST_COUNTED
"""Rows of which a count up to a bound may leave some out."""

LARGE_ROWS: Final = 1_000
"""A table of more rows is never read as a whole."""

_EXPLAINED: Final = re.compile(r"\s*(SELECT|UPDATE|DELETE|INSERT|WITH|\()", re.IGNORECASE)
_READS: Final = re.compile(r"\s*(SELECT|\()", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """One statement, and its plan."""

    sql: str
    plan: dict[str, Any]

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """All nodes of the plan."""
        return [node for node, _ in _nodes(self.plan, {})]

    @property
    def faults(self) -> list[str]:
        """What no statement of ours may do where there are many rows."""
        return [fault for node, parent in _nodes(self.plan, {}) if (fault := _fault(node, parent))]


@dataclass
class Recorder:
    """Asks for the plan of each statement before it runs."""

    statements: list[Statement] = field(default_factory=list)

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        """Explain the statement, and run it."""
        if _EXPLAINED.match(sql) and not many:
            self.statements.append(Statement(sql, _plan(sql, params)))
        return execute(sql, params, many, context)

    @property
    def faults(self) -> list[str]:
        """One line per fault, with its statement."""
        return [f"{fault}: {one.sql}" for one in self.statements for fault in one.faults]

    @property
    def worst_node(self) -> str:
        """The node that handles most rows, such as ``Sort 200``."""
        nodes = [node for one in self.statements for node in one.nodes if node["Node Type"] not in ("Limit", "Result")]
        if not nodes:
            return ""
        worst = max(nodes, key=_handled_rows)
        relation = worst.get("Index Name") or worst.get("Relation Name")
        where = f" {relation}" if relation else ""
        return f"{worst['Node Type']}{where}, {_handled_rows(worst):,} rows"


@contextmanager
def recorded() -> Iterator[Recorder]:
    """Record the plans of the statements of a ``with`` block."""
    recorder = Recorder()
    with connection.execute_wrapper(recorder):
        yield recorder


def _plan(sql: str, params: Any) -> dict[str, Any]:
    # A statement that writes is not carried out twice: its plan has estimates alone.
    options = "ANALYZE, TIMING OFF, FORMAT JSON" if _READS.match(sql) else "FORMAT JSON"
    with psycopg.ClientCursor(connection.connection) as cursor:
        row = cursor.execute(f"EXPLAIN ({options}) {sql}", params).fetchone()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def _nodes(plan: dict[str, Any], parent: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    yield plan, parent
    for part in plan.get("Plans", ()):
        yield from _nodes(part, plan)


def _fault(node: dict[str, Any], parent: dict[str, Any]) -> str:
    kind, relation = node["Node Type"], node.get("Relation Name", "")
    if _is_cut_short(node, parent):
        return ""
    if kind == "Seq Scan" and _handled_rows(node) > LARGE_ROWS:
        return f"{relation} is read as a whole ({_handled_rows(node):,} rows)"
    if kind == "Sort" and (rows := max(map(_rows, node["Plans"]))) > MOST_SORTED_ROWS:
        return f"{rows:,} rows are sorted by {', '.join(node['Sort Key'])}"
    if (rejected := _rejected_rows(node)) > MOST_REJECTED_ROWS:
        return f"{rejected:,} rows of {relation or kind} are read in vain"
    return ""


def _is_cut_short(node: dict[str, Any], parent: dict[str, Any]) -> bool:
    """Return whether a LIMIT ended a scan that had found enough early, as the planner does in the place of an index."""
    found_all = parent.get("Node Type") == "Limit" and _rows(node) >= parent["Plan Rows"]
    return found_all and _handled_rows(node) <= MOST_READ_FOR_A_COUNT


def _rows(node: dict[str, Any]) -> int:
    return int(node.get("Actual Rows", node["Plan Rows"]) * node.get("Actual Loops", 1))


def _rejected_rows(node: dict[str, Any]) -> int:
    names = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    return int(sum(node.get(name, 0) for name in names) * node.get("Actual Loops", 1))


def _handled_rows(node: dict[str, Any]) -> int:
    return max(_rows(node) + _rejected_rows(node), *map(_rows, node.get("Plans", ())), 0)
