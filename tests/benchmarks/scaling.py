"""Measure how clones a minute grow with workers and machines, on one host: ``python -m tests.benchmarks.scaling``.

Real clusters of two workers each, PostgreSQL, and a Git server on loopback; a machine is a ``NODE_ID`` with a sandbox
root of its own, and several share a storage for packs. A slow Git host leaves the processors idle, as real ones do; a
fast one makes them the limit.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import django
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import Max, Min

from coderepos.storage import MARKER
from tests.postgres import temporary_server
from tests.support.cluster import Cluster, wait_until
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer

STEPS = {
    "one machine, 2 workers": ("a",),
    "one machine, 4 workers": ("a", "a"),
    "two machines, 2 workers each": ("a", "b"),
    "four machines, 2 workers each": ("a", "b", "c", "d"),
}
"""The machine of each cluster."""

PACK_BYTES = 200_000
SLOW_BYTES_PER_SECOND = 100_000
HOSTS = {"slow": (SLOW_BYTES_PER_SECOND, 40), "fast": (None, 120)}
"""Rate of a Git host, and how many clones there are."""


def main() -> None:
    """Print one table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds of all steps, in turn")
    options = parser.parse_args()
    with temporary_server() as url, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        root = Path(directory)
        _set_up(url, root)
        found = {host: {step: list[float]() for step in STEPS} for host in HOSTS}
        for number in range(options.rounds):
            for host, (rate, clones) in HOSTS.items():
                for step, machines in STEPS.items():
                    place = root / f"{number}-{host}-{len(machines)}-{machines[-1]}"
                    found[host][step].append(_clones_a_minute(place, root, machines, rate, clones))
        _print(found)
        for path, _, _ in os.walk(root):
            Path(path).chmod(0o700)


def _print(found: dict[str, dict[str, list[float]]]) -> None:
    heads = [f"{host} Git host, clones a minute | : the first step" for host in HOSTS]
    print(f"| | {' | '.join(heads)} |\n| --- |{' --: |' * 2 * len(HOSTS)}")
    first = {host: statistics.median(next(iter(steps.values()))) for host, steps in found.items()}
    for step in STEPS:
        medians = {host: statistics.median(found[host][step]) for host in HOSTS}
        cells = [f"{median:,.0f} | {median / first[host]:.1f}" for host, median in medians.items()]
        print(f"| {step} | {' | '.join(cells)} |")


def _set_up(url: str, root: Path) -> None:
    source = make_repository(root / "served" / "source")
    (source / "noise").write_bytes(os.urandom(PACK_BYTES))
    git("add", "-A", cwd=source)
    git("commit", "--quiet", "-m", "noise", cwd=source)
    (root / "packs").mkdir()
    (root / "packs" / MARKER).touch()
    storage = {"BACKEND": "coderepos.storage.DirectoryStorage", "OPTIONS": {"location": str(root / "packs")}}
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DATABASE_URL": url,
        "CODEREPOS_TEST_STORAGES": json.dumps({"packs": storage}),
    }
    django.setup()
    logging.disable(logging.CRITICAL)
    call_command("migrate", verbosity=0)


def _clones_a_minute(place: Path, root: Path, machines: tuple[str, ...], rate: int | None, clones: int) -> float:
    """Start a cluster for each machine that is named, let them clone, and return how fast that was."""
    from coderepos.models import CodeRepository, Job, Node
    from coderepos.models.job_states import UNFINISHED

    place.mkdir()
    with GitServer(root / "served", bytes_per_second=rate) as server, ExitStack() as running:
        values: dict[str, Any] = {"PRIVATE_GIT_HOSTS": [server.host], "INSECURE_HTTP_HOSTS": [server.host]}
        if len(set(machines)) > 1:
            values["PACK_STORAGE"] = "packs"
        for number, name in enumerate(machines):
            own = values | {"NODE_ID": name, "SANDBOX_BASE_PATH": str(place / name)}
            running.enter_context(_ready_cluster(place / f"{number}.log", own))
        _queue(server.url("source"), clones)
        wait_until(lambda: not Job.objects.filter(state__in=UNFINISHED).exists(), seconds=600, what="the last clone")
        assert not Job.objects.exclude(state="SUCCEEDED").exists()
        times: Any = Job.objects.aggregate(begin=Min("started_at"), end=Max("finished_at"))
    # What is left behind goes with the directory.
    CodeRepository.objects.all().delete()
    Node.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE code_repo_purges, code_repo_stored_packs, django_q_ormq")
    seconds: float = (times["end"] - times["begin"]).total_seconds()
    return 60 * clones / seconds


@contextmanager
def _ready_cluster(log: Path, values: dict[str, Any]) -> Iterator[None]:
    with Cluster(dict(os.environ), log, settings=values):
        wait_until(lambda: log.read_text().count("ready for work") >= 2, seconds=60, what="two workers")
        yield


def _queue(url: str, clones: int) -> None:
    from coderepos import queues
    from coderepos.crypto.secret import Secret
    from coderepos.models import CodeRepository, Job, get_project_model

    with transaction.atomic():
        for number in range(clones):
            project: Any = get_project_model()._default_manager.create(name=f"project {number}")
            repository = CodeRepository(project=project, git_url=url, estimated_size_mb=1)
            repository.token_ciphertext = Secret("t" * 30)
            repository.save(force_insert=True)
            queues.enqueue(Job.objects.create(repository=repository))


if __name__ == "__main__":
    main()
