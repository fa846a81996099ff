"""Runs a function of a test as another user, since root sees through every mode."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

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
