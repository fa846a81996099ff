"""A worker clones on and on and keeps its size: memory, descriptors, processes and threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest
from model_bakery import baker
from pytest_django import Settings

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Job, JobKind, get_project_model
from tests.support.git import make_repository
from tests.support.processes import descendants
from tests.support.servers.git_http_backend import GitServer

pytestmark = pytest.mark.django_db(transaction=True)

CLONES = 300
WARM = 100
"""Clones after which caches and the allocator have what they keep."""

SEEN = 20
"""Clones after which the size is taken, of which the least counts."""

MOST_GROWTH_MB = 6
"""Of the resident memory in the 200 clones after that: 30 kB for each would be a leak."""


@dataclass(frozen=True)
class Size:
    """What a process holds."""

    resident_mb: float
    descriptors: int
    children: int
    threads: int


def size() -> Size:
    """Return what this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Size(
        resident_mb=pages * os.sysconf("SC_PAGE_SIZE") / 10**6,
        descriptors=len(os.listdir("/proc/self/fd")),
        children=len(descendants(os.getpid())),
        threads=threading.active_count(),
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server of one small repository."""
    make_repository(tmp_path / "served/repository")
    with GitServer(tmp_path / "served") as started:
        yield started


@pytest.fixture
def repository(server: GitServer, settings: Settings, tmp_path: Path) -> CodeRepository:
    """A repository that waits for its first clone."""
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
    }
    made: CodeRepository = baker.make(
        CodeRepository,
        project=baker.make(get_project_model()),
        git_url=server.url("repository"),
        token_ciphertext=Secret(""),
    )
    return made


@pytest.mark.slow
@pytest.mark.of_any_database
def test_many_clones_in_a_row(repository: CodeRepository) -> None:
    """Three hundred clones take no more than the first hundred did."""
    sizes = []
    for number in range(CLONES):
        kind = JobKind.UPDATE if number else JobKind.CLONE
        job = Job.objects.create(repository=repository, kind=kind)
        assert services.worker.run_clone(job_id=job.pk) == "succeeded"
        sizes.append(size())

    before, after = least(sizes[WARM - SEEN : WARM]), least(sizes[-SEEN:])
    assert after.resident_mb - before.resident_mb < MOST_GROWTH_MB, (before, after)
    assert (after.descriptors, after.children, after.threads) == (before.descriptors, before.children, before.threads)


def least(sizes: list[Size]) -> Size:
    """Return the least of each figure: the Git server, in this process, may not be done with a request yet."""
    return Size(*(min(column) for column in zip(*map(astuple, sizes), strict=True)))
