"""What the tests of confinement share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.surroundings import Surroundings


@pytest.fixture
def surroundings(tmp_path: Path) -> Iterator[Surroundings]:
    """Sockets that listen and files that everybody may read."""
    with ExitStack() as running:
        yield Surroundings(tmp_path, running)
