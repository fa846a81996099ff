"""Slots of probes: how many Git hosts are asked at once while callers wait, for the whole site and for each tenant."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from django.db import connections

from coderepos import access
from coderepos.conf import conf
from coderepos.models import ProbeSlot
from coderepos.services.afterwards import failures_logged
from coderepos.services.repositories.quotas import Allowance

MARGIN_SECONDS: Final = 5
"""How long after the time of its probe a slot is free again whose process was killed."""


@dataclass(kw_only=True, slots=True)
class Call:
    """A request that may have a Git host asked."""

    asked: bool = False
    """Whether it was."""


_call: ContextVar[Call | None] = ContextVar("call", default=None)


@contextmanager
def slot(allowance: Allowance) -> Iterator[None]:
    """Run a probe in a ``with`` block, in one of the site's slots, with no transaction open.

    It counts against the rate of the project, which what is refused before it does not.

    :raises TooManyProbes: none is free, or the project or the user has as many as it may.
    :raises Throttled: the project has used up its rate.
    """
    token = uuid.uuid4()
    limits = allowance.limits
    ProbeSlot.objects.take(
        token,
        slots=conf.MAX_PROBES,
        seconds=conf.PROBE_TIMEOUT + MARGIN_SECONDS,
        project=(str(allowance.project_id), limits.project.probes),
        user=(str(allowance.user_id), limits.user.probes),
    )
    try:
        access.spend_connect_quota(allowance.project_id)
        if (call := _call.get()) is not None:
            call.asked = True
            _close_connections()
        yield
    finally:
        with failures_logged("A slot of a probe can't be given back; it is free again when its time is over"):
            ProbeSlot.objects.give_back(token)


@contextmanager
def connections_closed() -> Iterator[Call]:
    """Close the database connections of this thread while a probe runs that is begun in a ``with`` block.

    For requests, of which many may wait for Git hosts at once. Other callers may read from a cursor meanwhile.
    """
    call = Call()
    reset = _call.set(call)
    try:
        yield call
    finally:
        _call.reset(reset)


def _close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
