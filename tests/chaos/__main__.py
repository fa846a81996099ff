"""Run the chaos on SQLite, on PostgreSQL and on three machines at the same time, since most of it is waiting.

::

    python -m tests.chaos                         # 60 jobs in each run, about four minutes
    python -m tests.chaos --jobs 400 --minutes 15
    python -m tests.chaos --run machines --seed 7
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.support.cluster import leave_in_order

RUNS = {
    "sqlite": "two clusters on one machine",
    "postgresql": "two clusters on one machine",
    "machines": "PostgreSQL, three machines with small disks, and a storage for packs",
}


def main() -> int:
    """Run what the command line asks for; the status is 1 where an invariant does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--run", choices=RUNS, action="append", dest="kinds", help="only this one")
    parser.add_argument("--jobs", type=int, default=60, help="clones in each run")
    parser.add_argument("--minutes", type=float, default=1.25, help="how long things happen")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="repeats a run")
    arguments = parser.parse_args()
    runs = {}
    with ExitStack() as stack:
        for kind in arguments.kinds or RUNS:
            output = stack.enter_context(tempfile.TemporaryFile("w+"))
            command = [sys.executable, "-m", "tests.chaos.run", kind]
            command += [str(arguments.jobs), str(arguments.minutes), str(arguments.seed)]
            print(f"{kind}: {RUNS[kind]}; {arguments.jobs} jobs, seed {arguments.seed}", flush=True)
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=Path(__file__).parents[2])
            runs[kind] = process, output
            stack.callback(process.wait)
            stack.callback(process.terminate)
        for kind, (process, output) in runs.items():
            process.wait()
            output.seek(0)
            print(f"\n=== {kind}\n{output.read()}", flush=True)
        return int(any(process.returncode for process, _ in runs.values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave_in_order)
    sys.exit(main())
