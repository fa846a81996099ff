"""Calls that run beside the rest of the fetch; imported where there is one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_background(call: Callable[[], T]) -> Callable[[float | None], T]:
    """Run ``call`` in a thread of its own from now on, and return a function that waits for its value.

    That function takes the seconds, counted from now, that the call may take (``None``: any), raises what the call
    raised, and :class:`TimeoutError` where it takes longer.
    """
    started = time.monotonic()
    values: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            values.append(call())
        except BaseException as error:
            errors.append(error)

    def result(seconds: float | None) -> T:
        thread.join(None if seconds is None else max(0.0, started + seconds - time.monotonic()))
        if thread.is_alive():
            raise TimeoutError
        if errors:
            raise errors[0]
        return values[0]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return result
