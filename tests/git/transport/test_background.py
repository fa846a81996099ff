from __future__ import annotations

import threading
import time

import pytest

from coderepos.git.transport.background import in_background


def test_value_and_error() -> None:
    """What the call returns is returned, what it raises is raised, as often as it is asked for."""
    value = in_background(lambda: 7)
    error = in_background(lambda: int("x"))

    assert (value(None), value(0)) == (7, 7)
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            error(None)


def test_wait_is_counted_from_the_start() -> None:
    """Time that passed before anybody asked is a part of what the call may take."""
    over = threading.Event()
    value = in_background(lambda: over.wait(20))
    time.sleep(0.2)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        value(0.2)
    assert time.monotonic() - started < 0.1

    over.set()
    assert value(None) is True
