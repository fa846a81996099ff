"""Race a restore from a shared directory, by the stored index and without it, against a clone over loopback, in turn.

::

    python -m tests.benchmarks.restore_vs_clone --repo PATH [--repo PATH …] [--runs 7]

``PATH`` is a bare repository. Each is a whole attempt of a worker, from its claim to its end, for a repository that no
disk has; on SQLite. Absolute times of a noisy machine say little: the ratios of medians count.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django

if TYPE_CHECKING:
    from coderepos.models import CodeRepository
    from tests.support.servers.git_http_backend import GitServer
    from tests.support.two_machines import TwoMachines


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", action="append", type=Path, required=True, help="bare repository; may be repeated")
    parser.add_argument("--runs", type=int, default=7, help="measured runs of each way, after one that is not")
    options = parser.parse_args()
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    logging.disable(logging.CRITICAL)
    from tests.support.database import connection

    connection.creation.create_test_db(verbosity=0, serialize=False)
    print("| | pack | clone | restore by index | restore without | by index : clone | without : clone |")
    print("| --- |" + " --: |" * 6)
    for path in options.repo:
        with tempfile.TemporaryDirectory(prefix="coderepos-bench-") as directory:
            try:
                print_row(path.resolve(), Path(directory), options.runs)
            finally:
                subprocess.run(["chmod", "-R", "u+w", directory], check=True)
    connection.close()


class _Settings:
    """The settings, changed as the tests change them."""

    def __getattr__(self, name: str) -> Any:
        from django.conf import settings

        return getattr(settings, name)

    def __setattr__(self, name: str, value: Any) -> None:
        from django.test.utils import override_settings

        override_settings(**{name: value}).enable()


def print_row(path: Path, directory: Path, runs: int) -> None:
    """Measure one repository."""
    from tests.support.servers.git_http_backend import GitServer
    from tests.support.two_machines import TwoMachines

    settings: Any = _Settings()
    with GitServer(path.parent) as server:
        settings.CODEREPOS = {
            **settings.CODEREPOS,
            "PRIVATE_GIT_HOSTS": [server.host],
            "INSECURE_HTTP_HOSTS": [server.host],
            "MAX_REPO_SIZE_MB": 1_000,
        }
        race = _Race(TwoMachines(settings, directory), server, path.name)
        ways = {"clone": race.clone, "by index": race.restore, "without": race.restore_without_index}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for run in range(runs + 1):
            for name, way in ways.items():
                taken = way()
                if run:
                    seconds[name].append(taken)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    print(
        f"| {path.stem} | {race.pack_mb:.1f} MB | {' | '.join(f'{one:.2f} s' for one in medians.values())} | "
        f"{medians['by index'] / medians['clone']:.2f} | {medians['without'] / medians['clone']:.2f} |",
        flush=True,
    )


class _Race:
    """One repository that is stored, and others of the same URL that are cloned and removed."""

    def __init__(self, machines: TwoMachines, server: GitServer, name: str) -> None:
        from coderepos.models import CodeRepository, StoredPack
        from tests.support.two_machines import connected

        self._machines = machines
        self._connected: Callable[[], CodeRepository] = lambda: connected(server, name=name)
        repository = self._connected()
        self._run(repository)
        if machines.store("a") != "1 stored, 0 removed":
            raise SystemExit("it was not stored")
        self._stored = CodeRepository.objects.get(pk=repository.pk)
        self.pack_mb = StoredPack.objects.get(repository_id=repository.pk).pack_bytes / 10**6
        (self._index,) = machines.packs.glob(f"{repository.pk}/*.idx")

    def clone(self) -> float:
        """Return the seconds that a first clone takes."""
        repository = self._connected()
        taken = self._run(repository)
        repository.delete()
        self._purge()
        return taken

    def restore(self) -> float:
        """Return the seconds that a restore by the stored index takes, where no disk has the version."""
        from coderepos.models import CodeRepository
        from coderepos.services.packs import recalling
        from coderepos.services.rounds import retaining

        CodeRepository.objects.update(last_used_at="2020-01-01T00:00Z", cloned_at="2020-01-01T00:00Z")
        if not retaining._leave_disk(self._stored.pk):
            raise SystemExit("it does not leave the disk")
        self._purge()
        recalling.recall(self._stored.pk)
        return self._run(self._stored)

    def restore_without_index(self) -> float:
        """Return the seconds that a restore takes for which the storage has no index."""
        away = self._index.rename(self._index.with_suffix(".away"))
        try:
            return self.restore()
        finally:
            away.rename(self._index)

    def _run(self, repository: CodeRepository) -> float:
        from tests.support.two_machines import newest_job

        job = newest_job(repository)
        began = time.perf_counter()
        outcome = self._machines.work("a", job)
        if outcome != "succeeded":
            raise SystemExit(f"an attempt has {outcome}")
        return time.perf_counter() - began

    def _purge(self) -> None:
        from coderepos.services.disk import purging

        with self._machines.on("a") as node:
            purging.purge(node)


if __name__ == "__main__":
    main()
