"""Two machines in one process: each has a name and a disk of its own, and both a shared directory for packs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from django.db.models.functions import Now
from model_bakery import baker
from pytest_django import Settings

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Job, Node, get_project_model
from coderepos.services.disk import this_machine
from coderepos.services.packs import relocating, storing
from coderepos.storage import MARKER
from tests.support.servers.git_http_backend import GitServer

STORED: Final = "packs"


def connected(
    server: GitServer, *, name: str = "repository", ref: str = "", depth: int | None = None
) -> CodeRepository:
    """Return a repository with a queued clone."""
    repository: CodeRepository = baker.make(
        CodeRepository,
        project=baker.make(get_project_model()),
        git_url=server.url(name),
        token_ciphertext=Secret("t" * 30),
        ref=ref,
        depth=depth,
    )
    Job.objects.create(repository=repository, max_attempts=4)
    return repository


def newest_job(repository: CodeRepository) -> Job:
    """Return the newest job of a repository."""
    return Job.objects.filter(repository=repository).latest("created_at")


class TwoMachines:
    """Machines ``a`` and ``b``; this process is one of them at a time.

    :param storage: the entry of ``STORAGES``; a shared directory by default.
    """

    def __init__(self, settings: Settings, directory: Path, storage: dict[str, Any] | None = None) -> None:
        self._settings = settings
        self._directory = directory
        self.packs: Final = directory / "packs"
        self.packs.mkdir()
        (self.packs / MARKER).touch()
        self.store_in(
            storage or {"BACKEND": "coderepos.storage.DirectoryStorage", "OPTIONS": {"location": str(self.packs)}}
        )

    def store_in(self, storage: dict[str, Any]) -> None:
        """Choose another storage for packs."""
        self._settings.STORAGES = {**self._settings.STORAGES, STORED: storage}
        self._settings.CODEREPOS = {**self._settings.CODEREPOS, "PACK_STORAGE": STORED, "SANDBOX_FREE_GB": 0}

    def root(self, name: str) -> Path:
        """Return the sandbox root of a machine."""
        return self._directory / name / "repos"

    @contextmanager
    def on(self, name: str) -> Iterator[Node]:
        """Be a machine for the length of a ``with`` block, and finish a round of upkeep on it."""
        before = self._settings.CODEREPOS
        self._settings.CODEREPOS = {**before, "NODE_ID": name, "SANDBOX_BASE_PATH": str(self.root(name))}
        try:
            node = this_machine.register_node()
            node.record_heartbeat()
            yield node
        finally:
            self._settings.CODEREPOS = before

    def work(self, name: str, job: Job) -> str:
        """Let a worker of a machine take a job, as soon as it is there."""
        Job.objects.filter(pk=job.pk).update(next_attempt_at=None)
        with self.on(name):
            return services.worker.run_clone(job_id=job.pk)

    def store(self, name: str) -> str:
        """Do one round of storing on a machine."""
        with self.on(name) as node:
            return storing.run_storage_round(node)

    def relocate(self, name: str) -> int:
        """Let a machine look for clones that are out of reach."""
        with self.on(name) as node:
            this_machine.prepare_root(node)
            return relocating.relocate(node)

    def lose(self, name: str) -> None:
        """Switch a machine off, and let eleven minutes pass."""
        Node.objects.filter(pk=name).update(last_seen=Now() - timedelta(minutes=11))

    def program(self, name: str, environment: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
        """Start a process of a machine that does one thing (``tests/support/programs/working.py``)."""
        environment, values = self.environment(name, environment)
        environment["CODEREPOS_TEST_OVERRIDES"] = json.dumps(values)
        command = [sys.executable, "-m", "tests.support.programs.working", *arguments]
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)

    def environment(self, name: str, environment: dict[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the environment of processes of a machine, and their values of ``CODEREPOS``."""
        values = {**self._settings.CODEREPOS, "NODE_ID": name, "SANDBOX_BASE_PATH": str(self.root(name))}
        storage = {STORED: self._settings.STORAGES[STORED]}
        return {**environment, "CODEREPOS_TEST_STORAGES": json.dumps(storage)}, values

    def hold(self) -> Path:
        """Have every call to the storage hang while the file that is returned is there."""
        held = self._directory / "held"
        held.touch()
        self.store_in(
            {
                "BACKEND": "tests.support.held_storage.HeldStorage",
                "OPTIONS": {"location": str(self.packs), "held": str(held)},
            }
        )
        return held

    def stored_names(self) -> list[str]:
        """Return the names of all files in the storage."""
        found = (path.relative_to(self.packs) for path in self.packs.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if str(path) != MARKER)
