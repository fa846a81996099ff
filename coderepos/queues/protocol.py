"""What the app asks of a host's queue: to notify workers, and nothing else.

A notification may be lost, repeated or reordered; the claim in the database decides. Only names of :data:`TASKS` and
UUIDs travel, since queues store their arguments in clear text.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, Protocol

TaskName = Literal["run_job", "reap", "sweep"]
"""Every task there is: a function of :mod:`coderepos.tasks`."""

WorkerState = Literal["free", "busy", "ended"]
"""What a worker says of itself: it waits for a task, of whichever app, is at one, or is about to end as it should."""

PERIODIC: Final[Mapping[TaskName, timedelta]] = {"reap": timedelta(minutes=1), "sweep": timedelta(hours=1)}
"""What a queue that can do so calls from time to time, beside the upkeep thread of its workers."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the host's settings that this queue cannot work with well."""

    number: int
    """The number of the system check's id."""

    message: str
    hint: str
    is_error: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueFacts:
    """What a queue says of itself right now."""

    reachable: bool | None
    """Whether the broker answered; ``None`` where the queue cannot tell."""

    waiting: int | None
    """Tasks that wait for a worker, the host's own included; ``None`` where the queue cannot tell."""

    missing_periodic: tuple[str, ...] | None = None
    """Periodic tasks that this queue should call, and does not know; ``None`` where it calls none."""


class Queue(Protocol):
    """A queue of the host. The class that the setting ``QUEUE`` names is called without arguments, once a process.

    Adapters derive from this class; what they do not override is what a queue without that feature does.
    """

    def enqueue(self, name: TaskName, key: uuid.UUID) -> None:
        """Send a task to a worker, now; called after the commit.

        :raises Exception: whatever the broker's client raises; the caller logs it, and the upkeep sends the task again.
        """
        ...

    def enqueue_at(self, name: TaskName, key: uuid.UUID, when: datetime) -> bool:
        """Send a task to a worker at ``when``, or return ``False``: the upkeep will do it then.

        :param when: aware, or naive where the host's ``USE_TZ`` is off.
        """
        return False

    def periodic(self, tasks: Mapping[TaskName, timedelta]) -> bool:
        """Have each task called that often, or return ``False``: ``coderepos_maintain`` has to do it.

        Called after each ``migrate``; idempotent, and keeps what an operator changed.
        """
        return False

    def facts(self) -> QueueFacts:
        """Ask the broker for what it knows, within seconds.

        :raises Exception: whatever its client raises while it cannot be reached.
        """
        ...

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the host's settings, without asking the broker."""
        return iter(())

    def transaction_to_await(self) -> str | None:
        """Return the alias of a database whose open transaction must end before :meth:`enqueue`, if there is one."""
        return None

    def forget(self) -> dict[str, int]:
        """Remove all that the queue keeps of the app's tasks, and return how many of each kind."""
        return {}

    def on_worker_start(self, receiver: Callable[[], None]) -> None:
        """Call ``receiver`` in each process that starts to run the app's tasks, where the queue has such a hook."""

    def why_no_workers(self) -> str | None:
        """Return why ``coderepos_worker`` cannot run workers of this queue here, or ``None`` where it can."""
        return "It brings workers of its own: start those."

    def run_workers(self, *, report: Callable[[WorkerState], None], is_stopping: Callable[[], bool]) -> bool:
        """Run workers below this process, which does nothing else, until they end; return whether they ended well.

        They and all between end with this process, and finish their tasks when they are told to stop.

        :param report: to be called in each worker when its state changes.
        :param is_stopping: whether the workers were told to stop; may be asked in any process.
        :raises RuntimeError: they cannot start.
        """
        raise RuntimeError(self.why_no_workers())

    def is_timeout(self, error: BaseException) -> bool:
        """Return whether an exception in a task is this queue's own time-out, rather than the end of its worker."""
        return False

    def is_cluster(self) -> bool:
        """Return whether this process runs tasks, or is one that all processes which do are forked from."""
        return False
