"""Run the chaos on SQLite and on PostgreSQL at the same time, since most of it is waiting.

::

    python -m tests.chaos                         # 60 jobs on each database, about three minutes
    python -m tests.chaos --jobs 400 --minutes 15
    python -m tests.chaos --database sqlite --seed 7
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

DATABASES = ("sqlite", "postgresql")


def main() -> int:
    """Run what the command line asks for; the status is 1 where an invariant does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=DATABASES, action="append", help="only this one")
    parser.add_argument("--jobs", type=int, default=60, help="clones on each database")
    parser.add_argument("--minutes", type=float, default=1.25, help="how long things happen")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="repeats a run")
    arguments = parser.parse_args()
    runs = {}
    with ExitStack() as stack:
        for database in arguments.database or DATABASES:
            output = stack.enter_context(tempfile.TemporaryFile("w+"))
            command = [sys.executable, "-m", "tests.chaos.run", database]
            command += [str(arguments.jobs), str(arguments.minutes), str(arguments.seed)]
            print(f"{database}: {arguments.jobs} jobs, seed {arguments.seed}", flush=True)
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=Path(__file__).parents[2])
            runs[database] = process, output
            stack.callback(process.terminate)
        for database, (process, output) in runs.items():
            process.wait()
            output.seek(0)
            print(f"\n=== {database}\n{output.read()}", flush=True)
        return int(any(process.returncode for process, _ in runs.values()))


if __name__ == "__main__":
    sys.exit(main())
