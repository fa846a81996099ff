"""Runs a function of a test as another user, since root sees through every mode."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import Any

NOBODY = 65534

USERS = [None, NOBODY] if os.geteuid() == 0 else [None]
"""``None`` is the user of the tests."""


def as_user(user: int | None, deed: Callable[[], Any]) -> Any:
    """Return what ``deed`` returns, or raise what it raises; for another user it runs in a forked process."""
    if user is None:
        return deed()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _become(user)
        answer: tuple[Any, Exception | None]
        try:
            answer = (deed(), None)
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = (None, error)
        with open(writing, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    result, failure = pickle.loads(content)  # noqa: S301 (our own process)
    if failure is not None:
        raise failure
    return result


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.umask(0o022)
