"""One attempt in a process that kills or stops itself: ``python -m … JOB STEP SIGNAL``."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Callable
from typing import Any

STEPS = (
    "before the rename",
    "after the rename",
    "before the link",
    "inside the link",
    "before the transaction",
    "inside the transaction",
    "after the transaction",
)


def main(job_id: str, step: str, number: str) -> str:
    """Run the attempt and return what became of it, where it gets so far."""
    import django

    django.setup()
    from coderepos import services
    from coderepos.models import Job, locking
    from coderepos.sandbox.sandbox import Sandbox
    from coderepos.sandbox.versions import CURRENT
    from coderepos.services.disk import publication

    locking.IDLE_SECONDS = 2  # type: ignore[misc]  # the wait of a test, not of a cluster
    interrupt = interruption(signal.Signals(int(number)))
    match step:
        case "before the rename":
            wrap(Sandbox, "finish_incoming", before=interrupt)
        case "after the rename":
            wrap(Sandbox, "finish_incoming", after=interrupt)
        case "before the link":
            wrap(Sandbox, "activate", before=interrupt)
        case "inside the link":
            wrap(os, "rename", before=lambda *names, **_: names[1] == CURRENT and interrupt())
        case "before the transaction":
            wrap(publication, "_write", before=interrupt)
        case "inside the transaction":
            wrap(Job, "succeed", after=interrupt)
        case "after the transaction":
            wrap(publication, "_write", after=interrupt)
    return services.worker.run_clone(job_id=uuid.UUID(job_id))


def interruption(number: signal.Signals) -> Callable[..., None]:
    """Return a function that sends this process a signal at its first call."""
    sent: list[None] = []

    def interrupt(*_: Any, **__: Any) -> None:
        if not sent:
            sent.append(None)
            os.kill(os.getpid(), number)

    return interrupt


def wrap(
    owner: Any, name: str, *, before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None
) -> None:
    """Let something happen before or after each call of a function."""
    original = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if before:
            before(*args, **kwargs)
        result = original(*args, **kwargs)
        if after:
            after(*args, **kwargs)
        return result

    setattr(owner, name, call)


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
