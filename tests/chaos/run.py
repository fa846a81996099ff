"""One run: ``python -m tests.chaos.run KIND JOBS MINUTES SEED``; the kinds are those of :mod:`tests.chaos`."""

from __future__ import annotations

import random
import signal
import sys

from tests.chaos.installation import installation
from tests.support.cluster import leave_in_order


def main(kind: str, jobs: int, minutes: float, seed: int) -> int:
    """Set everything up, let things happen, wait until all is done, and check the invariants."""
    with installation(kind, retries=10, jobs=jobs) as room:
        from tests.chaos.machines import MachinesStory
        from tests.chaos.story import Story

        random.seed(seed)
        story = MachinesStory if kind == "machines" else Story
        problems = story(room, random.Random(seed)).tell(jobs=jobs, seconds=minutes * 60)
        if problems:
            for log in sorted(room.folder.glob("cluster-*.log")):
                print(f"--- the end of {log.name}\n{log.read_text(errors='replace')[-6_000:]}")
            print("\n".join(["BROKEN:", *problems]))
        return int(bool(problems))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave_in_order)
    sys.exit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
