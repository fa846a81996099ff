"""The database is restarted under clones that run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_restart_of_postgresql_costs_no_attempt() -> None:
    """Clones go on over it, and failures that happen meanwhile are written afterwards."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.restart"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
