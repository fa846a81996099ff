"""Looks at the database and the broker in a process of its own, which can be killed when they hang."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from enum import IntEnum
from typing import Final

from django.db.models import Exists, OuterRef

from coderepos import queues
from coderepos.conf import conf
from coderepos.git.confinement.linux import die_with_parent
from coderepos.models import Flow, Job, Node

DEADLINE_SECONDS: Final = 10
"""How long a look may take."""

DUE_SECONDS: Final = 45
"""How long a job is due that workers should have begun by now: their upkeep notifies them every ten seconds."""

logger = logging.getLogger(__name__)


class Seen(IntEnum):
    """What a look saw, as the exit status of its process."""

    NOTHING_DUE = 0
    DUE = 10
    """A job has been due for long, though it may have to wait for others of its flow that run."""

    CLAIMABLE = 11
    """A job has been due for long, and its flow runs fewer than it may, so that any worker can claim it."""

    UNREACHABLE = 12
    """The database or the broker refuses, hangs, or has no tables yet."""


class Look:
    """One look, in a child of this process; poll it with :meth:`seen`. Only for a process without threads."""

    def __init__(self) -> None:
        self._deadline: Final = time.monotonic() + DEADLINE_SECONDS
        parent = os.getpid()
        self.pid: Final = os.fork()
        if not self.pid:
            _look(parent)

    def seen(self) -> Seen | None:
        """Return what it saw, or ``None`` while it looks."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return Seen(code) if code in {*Seen} else Seen.UNREACHABLE
        if time.monotonic() > self._deadline:
            os.kill(self.pid, signal.SIGKILL)
        return None

    def end(self) -> None:
        """Stop it, if it still runs."""
        if self.seen() is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _look(parent: int) -> None:
    seen = Seen.UNREACHABLE
    try:
        die_with_parent(parent)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        seen = _ask()
    except Exception as error:
        # The name alone: the text of a database may hold the names of hosts and users.
        logger.warning("The database or the broker can't be used now: %s", type(error).__name__)
    finally:
        # Neither handlers nor buffers of the copied process may run here.
        sys.stderr.flush()
        os._exit(seen)


def _ask() -> Seen:
    node = Node.objects.filter(name=conf.node_id).first()
    if node is not None and not node.may_claim():
        return Seen.NOTHING_DUE  # here: it is drained, or its disk was full
    due = Job.objects.overdue(after_seconds=DUE_SECONDS)
    if not due.exists():
        return Seen.NOTHING_DUE
    if queues.current().facts().reachable is False:
        return Seen.UNREACHABLE
    of_flow = due.filter(flow=OuterRef("key"))
    return Seen.CLAIMABLE if Flow.objects.with_free_slot().filter(Exists(of_flow)).exists() else Seen.DUE
