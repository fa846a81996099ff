"""What one tenant may use, and how large its share of the workers is.

A host with tiers names a function of its own in ``LIMITS``, such as ``"shop.limits.for_project"``. It is called with
the project and the user who asks, outside of any transaction, and returns :class:`Limits`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a project, and the user who asks, may use.

    :raises ValueError: a weight that is not positive, or a limit below what makes sense.
    """

    flow: str
    """Key of whose turn its jobs take; projects with the same key share one."""

    weight: float = 1
    """How many turns it has for each one of a flow of weight 1."""

    slots: int | None = None
    """Most clones of the flow that run at once; ``None`` for as many as there are workers."""

    def __post_init__(self) -> None:
        """Refuse values by which nothing would ever run."""
        if not 0.001 <= self.weight <= 1_000 or (self.slots is not None and self.slots < 1):
            raise ValueError("A weight must be from 0.001 to 1000, and slots at least 1.")


def default_limits(project: Any, user: Any) -> Limits:
    """Return the limits of every project where ``LIMITS`` names nothing else: one flow each, all alike."""
    return Limits(flow=str(project.pk))
