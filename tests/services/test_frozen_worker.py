"""A worker that froze anywhere wakes after its successor published, and touches nothing that is not its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now
from model_bakery import baker
from pytest_django import Settings

from coderepos import engine, services
from coderepos.crypto.secret import Secret
from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, JobState
from coderepos.projects.models import Project
from coderepos.sandbox.sandbox import Sandbox
from coderepos.services import cloning
from coderepos.services.disk import publication, this_machine
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server of one repository."""
    make_repository(tmp_path / "served/repository")
    with GitServer(tmp_path / "served") as started:
        yield started


@pytest.fixture
def job(server: GitServer, settings: Settings, tmp_path: Path) -> Job:
    """A queued clone of it."""
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
    }
    repository = baker.make(
        CodeRepository,
        project=baker.make(Project),
        git_url=server.url("repository"),
        token_ciphertext=Secret("t" * 30),
    )
    return Job.objects.create(repository=repository, max_attempts=3)


PLACES: dict[str, tuple[Any, str]] = {
    "before it looks": (Sandbox, "tokens"),
    "before it makes sure of its lease": (Job, "renew"),
    "before it removes what was left behind": (Sandbox, "discard_incoming"),
    "before it makes its directory": (Sandbox, "create_incoming"),
    "before it clones": (cloning, "clone"),
    "before it finishes its version": (Sandbox, "finish_incoming"),
    "before it commits": (cloning, "_commit"),
    "before it sets the link": (Sandbox, "activate"),
    "before it writes the outcome": (publication, "_write"),
    "before it looks at the link again": (publication, "align"),
}


def freeze_at(monkeypatch: pytest.MonkeyPatch, place: str, during_sleep: Callable[[], None]) -> None:
    """Let the first process that comes to a place sleep there; what happens meanwhile is ``during_sleep``."""
    owner, name = PLACES[place]
    original = getattr(owner, name)

    def sleep_then(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(owner, name, original)
        during_sleep()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, sleep_then)


@pytest.mark.parametrize("place", PLACES)
def test_sleeper_wakes_after_its_successor_published(job: Job, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Wherever it slept: the published version stays, what it built itself goes, and the row is true."""
    sandbox = engine.sandbox_of(job.repository)
    outcomes = []

    def successor() -> None:
        Job.objects.filter(pk=job.pk).update(lease_until=Now() - timedelta(seconds=1))
        outcomes.append(services.worker.run_clone(job_id=job.pk))

    if place == "before it removes what was left behind":
        make_leftover(job, sandbox)
    freeze_at(monkeypatch, place, successor)

    outcomes.append(services.worker.run_clone(job_id=job.pk))

    assert outcomes == ["succeeded", "lost"]
    assert_published(job, sandbox)


@pytest.mark.parametrize("place", PLACES)
def test_sleeper_wakes_while_its_successor_builds(job: Job, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """What the successor is building is not the sleeper's to remove either."""
    sandbox = engine.sandbox_of(job.repository)
    built: list[str] = []

    def successor() -> None:
        Job.objects.filter(pk=job.pk).update(lease_until=Now() - timedelta(seconds=1))
        claimed = Job.objects.claim(job.pk, node="another worker")
        assert claimed
        built.append(str(claimed.lease_token))
        sandbox.create_incoming(built[0])

    if place == "before it removes what was left behind":
        make_leftover(job, sandbox)
    freeze_at(monkeypatch, place, successor)

    assert services.worker.run_clone(job_id=job.pk) == "lost"
    left = sandbox.tokens() - {"published"}
    assert left >= set(built)
    # A version that its own link already led to is left to the sweep: the link may be the successor's by now.
    assert left - set(built) <= {sandbox.current()}


def test_what_a_dead_attempt_left_goes_with_the_next_one(job: Job) -> None:
    """By its token, whether it was being built, published and never shown, or on its way out."""
    sandbox = engine.sandbox_of(job.repository)
    make_leftover(job, sandbox)

    assert services.worker.run_clone(job_id=job.pk) == "succeeded"

    assert_published(job, sandbox)


def test_readers_keep_their_version_until_the_next_one_is_published(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A COMPLETED repository is cloned again: the old version stays up to the last step, and then goes."""
    sandbox = engine.sandbox_of(job.repository)
    assert services.worker.run_clone(job_id=job.pk) == "succeeded"
    first = sandbox.current()
    again = Job.objects.create(repository=job.repository, kind=JobKind.UPDATE)
    seen = []

    def read() -> None:
        status = CodeRepository.objects.values_list("clone_status", flat=True).get()
        seen.append((status, sandbox.current(), any(sandbox.repository_path.iterdir())))

    freeze_at(monkeypatch, "before it sets the link", read)

    assert services.worker.run_clone(job_id=again.pk) == "succeeded"
    assert seen == [(CloneStatus.COMPLETED, first, True)]
    assert_published(again, sandbox)
    assert sandbox.current() != first


def test_clone_that_is_gone_is_reported_and_got_back(job: Job) -> None:
    """The sweep notices, the row says so, and cloning again mends it."""
    sandbox = engine.sandbox_of(job.repository)
    services.worker.run_clone(job_id=job.pk)
    sandbox.remove()
    services.worker.sweep()
    repository = CodeRepository.objects.get()
    assert (repository.clone_status, repository.error_code) == (CloneStatus.FAILED, "sandbox_missing")

    assert repository.restart()
    again = Job.objects.create(repository=repository)
    assert services.worker.run_clone(job_id=again.pk) == "succeeded"
    assert_published(again, sandbox)


def test_clone_that_is_gone_is_got_back_before_anybody_noticed(job: Job) -> None:
    """A row that still says COMPLETED can be cloned again at once."""
    sandbox = engine.sandbox_of(job.repository)
    services.worker.run_clone(job_id=job.pk)
    sandbox.remove()

    again = Job.objects.create(repository=job.repository, kind=JobKind.UPDATE)
    assert services.worker.run_clone(job_id=again.pk) == "succeeded"
    assert_published(again, sandbox)


def make_leftover(job: Job, sandbox: Sandbox) -> None:
    """Leave what workers leave that die: building, and after the version got its name."""
    this_machine.prepare_root(this_machine.register_node())
    for token in ("building", "published"):
        sandbox.create_incoming(token)
    sandbox.finish_incoming("published")


def assert_published(job: Job, sandbox: Sandbox) -> None:
    """One version is on disk, readers see it, and the row names it."""
    job.refresh_from_db()
    repository = CodeRepository.objects.get(pk=job.repository_id)
    assert (job.state, repository.clone_status) == (JobState.SUCCEEDED, CloneStatus.COMPLETED)
    assert sandbox.tokens() == {repository.version} == {str(job.lease_token)}
    assert sandbox.current() == repository.version
    assert any(sandbox.repository_path.iterdir())
