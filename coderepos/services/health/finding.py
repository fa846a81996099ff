"""What one check of the whole report found."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad it is: only ``failing`` makes the whole report so."""

    OK = "ok"
    WARNING = "warning"
    FAILING = "failing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    """Stable name, under which ``docs/operations.md`` says what to do."""

    level: Level
    text: str
    """What was seen, in one sentence."""

    values: dict[str, Any] = field(default_factory=dict)
    """The same as numbers, with units in their names, for monitors."""


def ok(check: str, text: str, **values: Any) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(check=check, level=Level.OK, text=text, values=values)


def warning(check: str, text: str, **values: Any) -> Finding:
    """Return a finding that somebody should look at by day."""
    return Finding(check=check, level=Level.WARNING, text=text, values=values)


def failing(check: str, text: str, **values: Any) -> Finding:
    """Return a finding that stops work."""
    return Finding(check=check, level=Level.FAILING, text=text, values=values)


def worst(findings: list[Finding]) -> Level:
    """Return the level of the whole report, in which a warning is no failure."""
    return Level.FAILING if any(one.level == Level.FAILING for one in findings) else Level.OK


def span(seconds: int) -> str:
    """Return a length of time as people read it, such as ``2 min``."""
    for unit_seconds, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_seconds:
            return f"{seconds // unit_seconds} {unit}"
    return f"{max(0, seconds)} s"
