"""What users ask for meanwhile: they cancel, clean, delete and clone again, at any moment and whatever is broken."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.db import Error, connection

from coderepos import engine, services
from coderepos.exceptions import CodeReposError
from coderepos.models import CloneStatus, CodeRepository, Job, JobState, Purge
from coderepos.models.job_states import UNFINISHED
from coderepos.sandbox.sandbox import sandboxes

CALLS = ("cancel", "cancel", "clean", "delete", "clone")
READERS_CALLS = (*CALLS, "open", "open", "open")
MOST = {"delete": 8, "clean": 10, "cancel": 14, "clone": 14, "open": 60}
"""Calls of each kind that succeed: enough has to be left for what happens to the clusters."""


class Users:
    """Calls services for repositories by chance, as the API does."""

    def __init__(self, chance: random.Random, calls: Sequence[str] = CALLS) -> None:
        self._calls = calls
        self.done: Counter[str] = Counter()
        self.deleted: set[str] = set()
        self.problems: list[str] = []
        self._chance = chance
        self._user: Any = None

    def ask(self) -> None:
        """Make one call; the database may be away, and the repository in a state that does not allow it."""
        name = self._chance.choice([one for one in self._calls if self.done[one] < MOST[one]] or [""])
        try:
            if name and (repository := self._find(name)) is not None:
                self._call(name, repository)
                self.done[name] += 1
        except CodeReposError as refusal:
            self.done[f"{name} refused: {refusal.code}"] += 1
        except Error:
            connection.close()
            self.done["database away"] += 1

    def _find(self, name: str) -> CodeRepository | None:
        """Return a repository for a call, often one in the midst of a clone."""
        repositories = CodeRepository.objects.order_by("pk")
        if name == "cancel":
            running = Job.objects.filter(state=JobState.RUNNING)
            repositories = repositories.filter(pk__in=running.values("repository_id")) or repositories
        if name == "clean":
            repositories = repositories.filter(clone_status__in=[CloneStatus.COMPLETED, CloneStatus.FAILED])
        if name == "open":
            completed = repositories.filter(clone_status=CloneStatus.COMPLETED)
            repositories = completed.filter(version="") or completed
        if name == "clone":
            repositories = repositories.filter(clone_status__in=[CloneStatus.CLEANED, CloneStatus.FAILED])
        found = list(repositories)
        return self._chance.choice(found) if found else None

    def _call(self, name: str, repository: CodeRepository) -> None:
        if self._user is None:
            self._user = get_user_model()._default_manager.create(username="root", is_superuser=True)
        about = {"user": self._user, "repository": repository}
        if name == "cancel":
            job = services.cancel_repository(**about)
            version = CodeRepository.objects.values_list("version", flat=True).filter(pk=repository.pk).first()
            if version and version == str(job.lease_token):
                self.problems.append(f"job {job.pk} is cancelled, and its version is published")
        elif name == "clean":
            services.clean_repository(**about)
        elif name == "clone":
            services.clone_repository(**about)
        elif name == "open":
            services.open_clone(repository)
        else:
            # Noted first: what is not known to be committed may be.
            self.deleted.add(str(repository.pk))
            services.disconnect_repository(**about)


def unfinished() -> Iterator[str]:
    """Yield a sentence for jobs, cleanings and purges that are not final."""
    for what, rows in (
        ("jobs", Job.objects.filter(state__in=UNFINISHED)),
        ("cleanings", CodeRepository.objects.filter(clone_status=CloneStatus.CLEANING)),
        ("purges", Purge.objects.all()),
    ):
        if number := rows.count():
            yield f"{number} {what} are not final"


def left_behind(deleted: set[str]) -> Iterator[str]:
    """Yield a sentence for every repository without a clone that has bytes on the disk, before any sweep."""
    known = {str(pk) for pk in CodeRepository.objects.values_list("pk", flat=True)}
    readable = {str(pk) for pk in CodeRepository.objects.exclude(version="").values_list("pk", flat=True)}
    for sandbox in sandboxes(engine.sandbox_root()):
        if sandbox.repository_id not in known and sandbox.repository_id in deleted:
            yield f"{sandbox.path} is there, and its repository was deleted"
        elif sandbox.repository_id not in readable and (files := number_of_files(sandbox.path)):
            yield f"{sandbox.path} has {files} files, and its repository has no clone"


def number_of_files(path: Path) -> int:
    """Return how many files are below a directory."""
    return sum(one.is_file() and not one.is_symlink() for one in path.rglob("*"))
