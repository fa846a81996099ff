"""What one tenant may use, and how large its share of the workers is.

A host with tiers names a function of its own in ``LIMITS``, such as ``"shop.limits.for_project"``. It is called with
the project and the user who asks, outside of any transaction, and returns :class:`Limits`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from coderepos.setting_types import Number, require_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """The most that one project, or one user, may have; ``None`` for no limit.

    Of a user it counts the repositories that the user connected.
    """

    repositories: int | None = None
    size_bytes: int | None = None
    """Bytes of all repositories: what is published, or an estimate of what is not yet; the larger of both for one that
    was changed and has not been cloned since."""

    unfinished_jobs: int | None = None
    """Jobs that are queued or running."""

    probes: int | None = None
    """Calls that test a repository against its Git host at the same time."""


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

    project: Quota = field(default_factory=lambda: Quota(probes=8))
    user: Quota = field(default_factory=lambda: Quota(probes=4))

    def __post_init__(self) -> None:
        """Refuse values by which nothing would ever run."""
        require_number("weight", self.weight, Number(least=0.001, most=1_000, unit="turns"))
        require_number("slots", self.slots, Number(least=1, most=10**6, unit="clones", optional=True, whole=True))
        for quota in (self.project, self.user):
            for each in fields(quota):
                value, rule = getattr(quota, each.name), Number(least=0, most=10**18, unit=each.name, optional=True)
                require_number(each.name, value, rule)


def default_limits(project: Any, user: Any) -> Limits:
    """Return the limits of every project where ``LIMITS`` names nothing else: one flow each, all alike."""
    return Limits(flow=str(project.pk))
