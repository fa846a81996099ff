"""Runs a function of a test as another user, since root sees through every mode, or in a process of its own."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")

NOBODY = 65534

USERS = [None, NOBODY] if os.geteuid() == 0 else [None]
"""``None`` is the user of the tests."""


def as_user(user: int | None, deed: Callable[[], T]) -> T:
    """Return what ``deed`` returns when it is done with the rights of a user.

    Changing the effective user takes root's capabilities away for as long as it lasts.
    """
    if user is None:
        return deed()
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(user)
    os.seteuid(user)
    try:
        return deed()
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def forked(deed: Callable[[], T]) -> T:
    """Return what ``deed`` returns, or raise what it raises, in a process of its own that has one thread."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        answer: tuple[T | None, Exception | None]
        try:
            answer = (deed(), None)
        except Exception as error:
            answer = (None, error)
        with open(writing, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    result, failure = pickle.loads(content)  # noqa: S301  our own process wrote it
    if failure is not None:
        raise failure
    return cast("T", result)
