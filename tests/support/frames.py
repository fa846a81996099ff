"""What an error reporter would send: every local variable of every frame, at every line of what is run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from django.db.models import QuerySet

from coderepos.secret_forms import secret_forms

PACKAGE = "coderepos"
BELOW = ("json", "base64", "hmac", "subprocess", "rest_framework", "cryptography", "django.db.models", "django.forms")
"""Libraries whose frames are looked at as well, below a frame of ours."""


class Watched:
    """Finds secrets in local variables, printed as reporters and debug pages print them."""

    def __init__(self, secrets: Collection[str | bytes]) -> None:
        self._forms = [form for secret in secrets for form in _forms(secret)]
        self._clean: dict[tuple[int, str], object] = {}
        self.found: set[str] = set()
        self.lines = 0

    def trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Look at a frame and, by what it returns, at each of its lines."""
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(PACKAGE) and not (name.startswith(BELOW) and _is_below_ours(frame)):
            return None
        self.lines += 1
        for variable, value in list(frame.f_locals.items()):
            key = id(frame), variable
            if self._clean.get(key) is value and not isinstance(value, list | dict | set | bytearray):
                continue
            if any(form in shown for shown in _shown(value) for form in self._forms):
                self.found.add(f"{name}.{frame.f_code.co_name}: {variable}")
            self._clean[key] = value
        return self.trace


def _forms(secret: str | bytes) -> list[str]:
    if isinstance(secret, str):
        return secret_forms(secret)
    return [repr(bytes(secret))[2:-1], secret.hex()]


def _is_below_ours(frame: FrameType) -> bool:
    caller = frame.f_back
    while caller is not None:
        if str(caller.f_globals.get("__name__", "")).startswith(PACKAGE):
            return True
        caller = caller.f_back
    return False


def _shown(value: Any, nesting: int = 0) -> Iterator[str]:
    """Yield what is printed of a value: itself, and the parts of containers one by one, as reporters go into them."""
    before = sys.gettrace()
    sys.settrace(None)
    try:
        yield _printed(value)
        if nesting < 5 and type(value) in (dict, list, tuple, set):
            for part in [*value.keys(), *value.values()] if isinstance(value, dict) else list(value):
                yield from _shown(part, nesting + 1)
    finally:
        sys.settrace(before)


def _printed(value: Any) -> str:
    if isinstance(value, QuerySet):
        # Django 6.1 changes some in place while they are made, and printing one sends a query.
        return f"<{type(value).__name__}>"
    try:
        return repr(value)
    except Exception as error:  # what a reporter does with an object that is not ready
        return f"<{type(error).__name__}>"


@contextmanager
def watched(*secrets: str | bytes) -> Iterator[Watched]:
    """Look at all frames of this thread, and of those that it starts, in a ``with`` block."""
    watching = Watched(secrets)
    before = sys.gettrace()
    threading.settrace(watching.trace)
    sys.settrace(watching.trace)
    try:
        yield watching
    finally:
        sys.settrace(before)
        threading.settrace(None)
