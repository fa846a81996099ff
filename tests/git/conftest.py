"""Fixtures of the tests that start processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.support.processes import adopt_orphans, descendants, left_over


@pytest.fixture
def no_children_left() -> Iterator[None]:
    """No process that a test started, no orphan of one and no zombie outlives the test."""
    before = set(descendants(os.getpid()))
    adopt_orphans(adopt=True)
    yield
    deadline = time.monotonic() + 2
    while (left := left_over(before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    adopt_orphans(adopt=False)
    assert not left
