"""The child of :mod:`coderepos.git.build`, which ends at the first system call that its list does not name."""

from __future__ import annotations

from coderepos.git import build
from tests.support.programs.strict import end_at_refusals


def main(pack_fd: int) -> int:
    """Run the child process and return its exit status."""
    end_at_refusals()
    return build.main(pack_fd)
