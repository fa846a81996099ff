"""Check of the queue: what its adapter finds wrong in the host's settings."""

from __future__ import annotations

from typing import Any

from django.core import checks

from coderepos import queues
from coderepos.checks.messages import error, warning
from coderepos.checks.types import are_usable
from coderepos.conf import ConfigurationError


def check_queue(**_: Any) -> list[checks.CheckMessage]:
    """Check that there is the queue that ``QUEUE`` names, and that its settings suit the app."""
    if not are_usable():
        return []
    try:
        problems = list(queues.current().problems())
    except ConfigurationError as problem:
        return [error(18, str(problem), "Give the dotted path of a class; see coderepos.queues.protocol.Queue.")]
    return [
        (error if problem.is_error else warning)(problem.number, problem.message, problem.hint) for problem in problems
    ]
