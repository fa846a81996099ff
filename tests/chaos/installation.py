"""A database, a Git server with repositories, and clusters of workers on one machine or three, all of them real."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import django
from django.core.management import call_command
from django.db import transaction

from coderepos.storage import MARKER
from tests.chaos.storage import away_file, slow_file
from tests.postgres import TemporaryServer
from tests.support.cluster import Cluster, children_of, fork_servers_of, forked_for
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer

SOURCES = 6
TOKEN = "t" * 30
BYTES_PER_SECOND = 60_000
"""Rate of the Git server: a clone takes some seconds, so that there is something to interrupt."""

HELPERS = 4
"""Processes of a cluster that is up, beside its guard: two workers, monitor, pusher."""

BUDGET_MB_PER_JOB, BUDGET_MB_BESIDE = 0.55, 4
"""Room on the disk: what the clones take in the end, and what one more job reserves, so that jobs wait for others."""

MACHINES = ("a", "b", "c")
MACHINE_BUDGET_MB = 10
"""Room on the disk of each of three machines: together less than all clones, so that what is stored leaves."""

FIRST_ROUND_SECONDS = 6
"""How soon a cluster that is up has done something."""

RESTART_SECONDS = 8
"""How soon a supervisor starts a cluster that ended."""


class Member:
    """One cluster under a supervisor that starts it again, and what was done to it.

    :param values: its settings: keys of ``CODEREPOS``.
    """

    def __init__(self, name: str, log: Path, values: dict[str, Any]) -> None:
        self.name = name
        self.values = values
        self._make = partial(Cluster, dict(os.environ), log, settings=values)
        self.cluster = self._make()
        self.impaired_until = 0.0
        """Until then something is wrong with it that it does not recover from at once."""

    def __enter__(self) -> Member:
        self.cluster.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.wake()
        self.cluster.kill()

    @property
    def root(self) -> Path:
        """The sandbox root of its machine."""
        return Path(self.values["SANDBOX_BASE_PATH"])

    @property
    def is_impaired(self) -> bool:
        """Is something wrong with it, or is it not up yet? Starting takes its time on a busy machine."""
        if len(self.helpers()) < HELPERS:
            self.impair(FIRST_ROUND_SECONDS)
        return time.monotonic() < self.impaired_until

    @property
    def has_ended(self) -> bool:
        """Whether its main process is gone."""
        return self.cluster.process.poll() is not None

    def impair(self, seconds: float) -> None:
        """Note that something is wrong with it for so long."""
        self.impaired_until = max(self.impaired_until, time.monotonic() + seconds)

    def restart(self) -> None:
        """End what is left of it, as a supervisor does, and start it again."""
        self.wake()
        self.cluster.kill()
        self.cluster = self._make()
        self.cluster.__enter__()

    def wake(self) -> None:
        """Let every process go on."""
        for pid in self.cluster.pids():
            send(pid, signal.SIGCONT)

    def sentinel(self) -> int | None:
        """Return the process that guards the workers."""
        found = children_of(self.cluster.process.pid)
        return found[0] if found else None

    def helpers(self) -> list[int]:
        """Return workers, monitor and pusher."""
        sentinel = self.sentinel()
        return [] if sentinel is None else children_of(sentinel)

    def busy_worker(self) -> tuple[int, list[int]] | None:
        """Return a worker that clones, stopped, and what clones for it; it is stopped before it is looked at.

        A worker that is idle by the time it is killed would take the lock of its cluster's queue along.
        """
        for pid in random.sample(helpers := self.helpers(), len(helpers)):
            if forked_for(pid):
                send(pid, signal.SIGSTOP)
                if children := forked_for(pid):
                    return pid, [*children, *fork_servers_of(pid)]
                send(pid, signal.SIGCONT)
        return None


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def database(kind: str, folder: Path) -> Iterator[tuple[str, TemporaryServer | None]]:
    """Make a database, and yield its URL and the server, where there is one.

    :param kind: ``sqlite``; anything else has PostgreSQL.
    """
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'db.sqlite3'}", None
        return
    with TemporaryServer() as server:
        yield server.url, server


def make_sources(root: Path) -> dict[str, Path]:
    """Make repositories that differ, and return their working trees by name."""
    sources = {}
    for number in range(SOURCES):
        source = make_repository(root / f"source{number}", commits=2 + number)
        (source / "folder").mkdir()
        (source / "folder" / "noise").write_bytes(os.urandom(100_000 + 50_000 * number))
        (source / "run").write_text(f"#!/bin/sh\necho {number}\n")
        (source / "run").chmod(0o755)
        git("add", "-A", cwd=source)
        git("commit", "--quiet", "-m", "noise", cwd=source)
        sources[source.name] = source
    return sources


@dataclass(frozen=True)
class Room:
    """Everything that is there."""

    folder: Path
    git_server: GitServer
    server: TemporaryServer | None
    sources: dict[str, Path]
    members: list[Member]

    @property
    def packs(self) -> Path:
        """The directory that machines share, where there are three."""
        return self.folder / "packs"

    @property
    def sqlite_file(self) -> Path | None:
        """The file of the database, where it is one."""
        return None if self.server else self.folder / "db.sqlite3"

    def queue_jobs(self, count: int, *, max_attempts: int) -> None:
        """Connect so many repositories, and notify of their first clones."""
        from coderepos import queues
        from coderepos.crypto.secret import Secret
        from coderepos.engine import network_policy
        from coderepos.git.url import parse_git_url
        from coderepos.models import CodeRepository, Job, get_project_model

        names = sorted(self.sources)
        project: Any = None
        for number in range(count):
            if number % len(names) == 0:
                project = get_project_model()._default_manager.create(name=f"project {number}")
            url = self.git_server.url(names[number % len(names)])
            key = parse_git_url(url, network_policy()).key
            with transaction.atomic():
                repository = CodeRepository(
                    project=project, git_url=url, url_key=key, username="git", estimated_size_mb=1
                )
                repository.token_ciphertext = Secret(TOKEN)
                repository.save(force_insert=True)
                queues.enqueue(Job.objects.create(repository=repository, max_attempts=max_attempts))


@contextmanager
def installation(kind: str, *, retries: int, jobs: int | None = None) -> Iterator[Room]:
    """Set everything up but start no cluster yet, and remove it in the end.

    Django is set up for it, so a process can have one of them only.

    :param kind: ``sqlite`` or ``postgresql``, with two clusters on one machine; ``machines``, with a cluster on each of
        three.
    :param jobs: how many clones there will be, where they are to be short of room on the disk of one machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="coderepos-chaos-"))
    try:
        with ExitStack() as stack:
            url, server = stack.enter_context(database(kind, folder))
            sources = make_sources(folder / "served")
            git_server = stack.enter_context(
                GitServer(folder / "served", credentials=("git", TOKEN), bytes_per_second=BYTES_PER_SECOND)
            )
            values: dict[str, Any] = {
                "SANDBOX_BASE_PATH": str(folder / "repos"),
                "PRIVATE_GIT_HOSTS": [git_server.host],
                "INSECURE_HTTP_HOSTS": [git_server.host],
                "CLONE_MAX_RETRIES": retries,
            }
            if kind == "machines":
                values |= {"PACK_STORAGE": "packs", "NODE_LOST_MINUTES": 2, "SANDBOX_MAX_GB": MACHINE_BUDGET_MB / 1_000}
                os.environ["CODEREPOS_TEST_STORAGES"] = json.dumps({"packs": shared_storage(folder / "packs")})
            elif jobs is not None:
                rounds = -(-jobs // SOURCES)
                values["SANDBOX_MAX_GB"] = (rounds * SOURCES * BUDGET_MB_PER_JOB + BUDGET_MB_BESIDE) / 1_000
            os.environ.update(
                DJANGO_SETTINGS_MODULE="tests.settings", DATABASE_URL=url, CODEREPOS_TEST_OVERRIDES=json.dumps(values)
            )
            django.setup()
            logging.disable(logging.INFO)
            call_command("migrate", verbosity=0)
            yield Room(folder, git_server, server, sources, make_members(kind, folder, values))
    finally:
        for path, _, _ in os.walk(folder):
            Path(path).chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


def shared_storage(packs: Path) -> dict[str, Any]:
    """Make the directory that machines share, and return its entry of ``STORAGES``."""
    packs.mkdir()
    (packs / MARKER).touch()
    options = {"location": str(packs), "away": str(away_file(packs)), "slow": str(slow_file(packs))}
    return {"BACKEND": "tests.chaos.storage.UnreliableStorage", "OPTIONS": options}


def make_members(kind: str, folder: Path, values: dict[str, Any]) -> list[Member]:
    """Return two clusters of one machine, or one of each machine, none of them started."""
    if kind != "machines":
        return [Member(name, folder / f"cluster-{name}.log", values) for name in ("a", "b")]
    return [
        Member(
            name,
            folder / f"cluster-{name}.log",
            values | {"NODE_ID": name, "SANDBOX_BASE_PATH": str(folder / name / "repos")},
        )
        for name in MACHINES
    ]
