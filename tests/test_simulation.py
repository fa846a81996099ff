"""The page shows what the simulation prints, and the simulation knows what the app asks a storage for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models import F
from django.db.models.functions import Now
from pytest_django import Settings

from coderepos.models import CodeRepository, Job, JobKind, StoredPack
from coderepos.storage import DirectoryStorage
from tests.simulation.__main__ import lines
from tests.simulation.model import Site
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer
from tests.support.two_machines import TwoMachines, connected, newest_job

APP = Site().app
PAGE = Path(__file__).parents[1] / "docs" / "scaling-out.md"


class CountingStorage(DirectoryStorage):
    """Counts what it is asked for."""

    calls: Counter[str] = Counter()

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        self.calls["exists"] += 1
        return super().exists(name)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        self.calls["size"] += 1
        return super().size(name)

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        """Return the names in a directory."""
        self.calls["listdir"] += 1
        return super().listdir(path)

    def delete(self, name: str) -> None:
        """Remove a file."""
        self.calls["delete"] += 1
        super().delete(name)

    def _open(self, name: str, mode: str = "rb") -> Any:
        self.calls["open"] += 1
        return super()._open(name, mode)

    def _save(self, name: str, content: Any) -> str:
        self.calls["save"] += 1
        return super()._save(name, content)


@pytest.fixture
def machines(settings: Settings, tmp_path: Path) -> Iterator[TwoMachines]:
    """Two machines with a storage that counts, and one repository that was cloned on the first."""
    make_repository(tmp_path / "served/repository")
    with GitServer(tmp_path / "served") as server:
        hosts = {"PRIVATE_GIT_HOSTS": [server.host], "INSECURE_HTTP_HOSTS": [server.host]}
        settings.CODEREPOS = {**settings.CODEREPOS, **hosts}
        machines = TwoMachines(settings, tmp_path)
        options = {"location": str(machines.packs)}
        machines.store_in({"BACKEND": "tests.test_simulation.CountingStorage", "OPTIONS": options})
        assert machines.work("a", newest_job(connected(server))) == "succeeded"
        yield machines


def calls() -> Counter[str]:
    """Return what was asked for since the last look."""
    found = CountingStorage.calls.copy()
    CountingStorage.calls.clear()
    return found


def let_an_hour_pass() -> None:
    """After which no upload of what leaves can be on its way."""
    hours = timedelta(hours=2)
    StoredPack.objects.update(due_at=Now() - hours, left_at=F("left_at") - hours)


@pytest.mark.django_db(transaction=True)
def test_a_version_costs_what_the_simulation_says(machines: TwoMachines) -> None:
    """To store one, to restore it, to store its successor, which removes it, and to delete the repository."""
    calls()
    objects = APP.objects_a_version
    assert machines.store("a") == "1 stored, 0 removed"
    assert calls() == {"save": objects, "size": APP.sizes_a_version}

    machines.lose("a")
    assert machines.relocate("b") == 1
    repository = CodeRepository.objects.get()
    assert machines.work("b", newest_job(repository)) == "succeeded"
    assert calls() == {"open": objects}

    with machines.on("b"):
        again = Job.objects.create(repository=repository, kind=JobKind.UPDATE, max_attempts=1)
    assert machines.work("b", again) == "succeeded"
    machines.store("b")
    let_an_hour_pass()
    machines.store("b")
    removed = {"delete": 2 * objects, "exists": APP.looks_a_removal}
    assert calls() == {"save": objects, "size": APP.sizes_a_version, **removed}

    CodeRepository.objects.get().delete()
    machines.store("b")
    let_an_hour_pass()
    machines.store("b")
    assert calls() == {"delete": objects, "listdir": APP.listings_a_deletion}
    assert not StoredPack.objects.exists()


def test_the_page_shows_what_is_printed() -> None:
    """All tables, line by line; ``python -m tests.simulation`` prints them."""
    assert "\n".join(lines(Site())) in PAGE.read_text()
