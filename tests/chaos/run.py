"""One run on one database: ``python -m tests.chaos.run DATABASE JOBS MINUTES SEED``."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.chaos.installation import Member, database, make_sources, slow
from tests.cluster import Cluster

TOKEN = "t" * 30


def main(kind: str, jobs: int, minutes: float, seed: int) -> int:
    """Set everything up, let things happen, wait until all is done, and judge."""
    folder = Path(tempfile.mkdtemp(prefix="coderepos-chaos-"))
    try:
        with ExitStack() as stack:
            url, server = stack.enter_context(database(kind, folder))
            sources = make_sources(folder / "served")
            git_server = stack.enter_context(slow(folder / "served", ("git", TOKEN)))
            overrides = {
                "SANDBOX_BASE_PATH": str(folder / "repos"),
                "PRIVATE_GIT_HOSTS": [git_server.host],
                "INSECURE_HTTP_HOSTS": [git_server.host],
                "CLONE_MAX_RETRIES": 10,
            }
            environment = {"DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": url}
            os.environ.update(environment, CODEREPOS_TEST_OVERRIDES=json.dumps(overrides))
            import django

            django.setup()
            from tests.chaos.story import Story

            members = [
                Member(partial(Cluster, dict(os.environ), folder / f"cluster-{name}.log", settings=overrides), name)
                for name in ("a", "b")
            ]
            chance = random.Random(seed)
            random.seed(seed)
            story = Story(chance, members, git_server, server, folder / "db.sqlite3" if server is None else None)
            problems = story.tell(sources, jobs=jobs, seconds=minutes * 60, stack=stack)
            if problems:
                for name in ("a", "b"):
                    print(f"--- the end of the log of cluster {name}")
                    print((folder / f"cluster-{name}.log").read_text(errors="replace")[-6_000:])
                print("\n".join(["BROKEN:", *problems]))
            return int(bool(problems))
    finally:
        for path, _, _ in os.walk(folder):
            Path(path).chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
