"""Runs calls in threads, beside the rest of the fetch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_background(call: Callable[[], T]) -> Callable[[float | None], T]:
    """Start ``call`` in a thread of its own, and return a function that waits for its value.

    That function takes how many seconds the call may take, counted from now, or ``None``. It raises what the call
    raised, or :class:`TimeoutError` if the call takes longer.
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
