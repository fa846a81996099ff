"""Which clones of a project may be removed without being asked.

A host names a function of its own in ``RETENTION``, such as ``"shop.rules.for_project"``. The upkeep of workers calls
it with the project, outside of any transaction, and it returns a :class:`Retention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coderepos.setting_types import Number, require_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """The rules of one project; without any value all clones are kept.

    A clone that is in use or cloned again is never removed, and the repository with its token always stays.

    :raises ValueError: a number is negative, or none.
    """

    keep_newest: int | None = None
    """How many clones no rule removes: those that were published last. On its own, it removes all others."""

    unused_days: float | None = None
    """After how many days without use a clone is removed."""

    evictable: bool = False
    """Whether clones may be removed to make room on the disk, the one used longest ago first."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        newest = Number(least=0, most=10**9, unit="clones", optional=True, whole=True)
        require_number("keep_newest", self.keep_newest, newest)
        require_number("unused_days", self.unused_days, Number(least=0, most=36_500, unit="days", optional=True))

    @property
    def expires(self) -> bool:
        """Whether clones are removed although there is room."""
        return self.unused_days is not None or (self.keep_newest is not None and not self.evictable)


def keep_all(project: Any) -> Retention:
    """Return the rules of every project where ``RETENTION`` names nothing else: nothing is removed."""
    return Retention()
