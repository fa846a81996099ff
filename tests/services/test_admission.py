"""A clone begins only where the disk has room for it, and says what it waits for."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now
from model_bakery import baker
from pytest_django import Settings

from coderepos import engine, services
from coderepos.conf import conf
from coderepos.crypto.secret import Secret
from coderepos.disk_errors import disk_error
from coderepos.git.clone import clone
from coderepos.models import (
    AuditEntry,
    CloneStatus,
    CodeRepository,
    Job,
    JobKind,
    JobState,
    Node,
    Purge,
    get_project_model,
)
from coderepos.services import cloning
from coderepos.services.disk import admission, this_machine
from coderepos.services.rounds import disk_round, upkeep_thread
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer

pytestmark = pytest.mark.django_db(transaction=True)

MB = 10**6


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server of one repository with 300 KB that do not compress."""
    repository = make_repository(tmp_path / "served/repository")
    (repository / "random").write_bytes(os.urandom(300_000))
    git("add", "random", cwd=repository)
    git("commit", "--quiet", "-m", "random", cwd=repository)
    with GitServer(tmp_path / "served") as started:
        yield started


@pytest.fixture
def job(server: GitServer, settings: Settings, tmp_path: Path) -> Job:
    """A queued clone of it, whose size was estimated well."""
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "SANDBOX_FREE_GB": 0,
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
    }
    repository = baker.make(
        CodeRepository,
        project=baker.make(get_project_model()),
        git_url=server.url("repository"),
        estimated_size_mb=1,
        token_ciphertext=Secret("t" * 30),
    )
    return Job.objects.create(repository=repository, max_attempts=2)


def allow(settings: Settings, **values: float | str | None) -> None:
    """Change settings of the app."""
    settings.CODEREPOS = {**settings.CODEREPOS, **values}


def run(job: Job) -> str:
    """Let a worker take the job now."""
    Job.objects.filter(pk=job.pk).update(next_attempt_at=None)
    return services.worker.run_clone(job_id=job.pk)


def occupy(size_mb: int, *, node: str | None = None) -> None:
    """Let a published clone take room on a disk."""
    baker.make(
        CodeRepository,
        project=baker.make(get_project_model()),
        git_url="https://h/other",
        url_key="https://h/other",
        token_ciphertext=Secret(""),
        clone_status=CloneStatus.COMPLETED,
        repository_size_mb=size_mb,
        node=node or conf.node_id,
    )


def message_of(job: Job) -> str:
    """Return what the status of the job's repository says."""
    return services.status_of(job.repository).progress_message


def test_job_waits_for_room_and_says_so(job: Job, settings: Settings) -> None:
    """No token is opened, no attempt counts and nothing is written; it begins as soon as there is room."""
    occupy(19)
    allow(settings, SANDBOX_MAX_GB=0.02)
    assert run(job) == "waiting_for_disk"

    job.refresh_from_db()
    assert (job.state, job.attempt, job.error_code) == (JobState.QUEUED, 0, "waiting_for_disk")
    assert "3 MB" in job.error_message
    assert message_of(job).startswith("Waiting for room on the disk, 3 MB; tried again in ")
    assert services.status_of(job.repository).retryable
    assert not AuditEntry.objects.exists()
    assert not engine.sandbox_of(job.repository).tokens()
    assert services.worker.run_disk_round(services.worker.register_node()) == "0 expired, 0 evicted, 0 woken"

    allow(settings, SANDBOX_MAX_GB=0.05)
    assert services.worker.run_disk_round(services.worker.register_node()) == "0 expired, 0 evicted, 1 woken"
    assert services.worker.run_clone(job_id=job.pk) == "succeeded"
    job.refresh_from_db()
    assert (job.attempt, job.error_code, job.repository.error_code) == (1, "", "")
    assert job.repository.last_used_at is not None


def test_readers_keep_what_waits_to_be_cloned_again(job: Job, settings: Settings) -> None:
    """A repository that is COMPLETED stays so, with the sentence after it."""
    assert run(job) == "succeeded"
    again = Job.objects.create(repository=job.repository, kind=JobKind.UPDATE)
    repositories = CodeRepository.objects.filter(pk=job.repository_id)
    used_at = repositories.get().last_used_at

    occupy(19)
    allow(settings, SANDBOX_MAX_GB=0.02)
    assert run(again) == "waiting_for_disk"
    assert "Waiting for room on the disk, 2 MB" in message_of(again)
    assert services.status_of(job.repository).repository.clone_status == CloneStatus.COMPLETED
    allow(settings, SANDBOX_MAX_GB=0.05)
    assert run(again) == "succeeded"
    assert repositories.get().last_used_at == used_at


def test_job_beyond_the_budget_of_every_machine_fails_at_once(job: Job, settings: Settings) -> None:
    """Waiting does not help it, and its sentence says what it is; another machine with room for it takes it later."""
    CodeRepository.objects.update(estimated_size_mb=5)
    allow(settings, SANDBOX_MAX_GB=0.002)
    other = Node.objects.create(name="larger", disk_budget_bytes=20 * MB, disk_measured_at=Now())
    assert run(job) == "waiting_for_disk"

    other.disk_budget_bytes = 4 * MB
    other.save()
    assert run(job) == "failed"
    job.refresh_from_db()
    assert (job.error_code, job.repository.clone_status) == ("repository_too_large", CloneStatus.FAILED)
    assert "takes about 5.0 MB, and no machine of this site may give it more than 4 MB" in job.error_message


def test_lost_machine_keeps_no_job_waiting(job: Job, settings: Settings) -> None:
    """A budget that is gone with its machine gives no hope."""
    CodeRepository.objects.update(estimated_size_mb=5)
    allow(settings, SANDBOX_MAX_GB=0.002, NODE_LOST_MINUTES=10)
    lost_at = Now() - timedelta(minutes=11)
    Node.objects.create(name="larger", disk_budget_bytes=20 * MB, disk_measured_at=lost_at, last_seen=lost_at)

    assert run(job) == "failed"


def test_budget_that_may_suffice_is_used_up(job: Job, settings: Settings) -> None:
    """The margin of an estimate fails no clone that fits; one that does not is too large, and begins no third time."""
    allow(settings, SANDBOX_MAX_GB=0.002)
    assert run(job) == "succeeded"

    make_larger(job, 3 * MB)
    CodeRepository.objects.update(clone_status=CloneStatus.PENDING, estimated_size_mb=0)
    again = Job.objects.create(repository=job.repository)
    assert [run(again), run(again)] == ["waiting_for_disk", "failed"]
    again.refresh_from_db()
    assert again.error_code == "repository_too_large"


def test_update_that_never_fits_beside_its_version_fails(job: Job, settings: Settings) -> None:
    """Readers keep their version, and nobody waits a day to be told."""
    assert run(job) == "succeeded"
    CodeRepository.objects.update(repository_size_mb=6)
    allow(settings, SANDBOX_MAX_GB=0.01)
    again = Job.objects.create(repository=job.repository, kind=JobKind.UPDATE)

    assert run(again) == "failed"
    assert message_of(job).startswith("Repository successfully cloned; cloning it again failed")
    assert services.status_of(job.repository).repository.clone_status == CloneStatus.COMPLETED


def test_version_on_another_machine_is_left_to_it(job: Job) -> None:
    """The machine that had the clone before is asked to remove it, and nobody is where it stays on one."""
    assert run(job) == "succeeded"
    assert run(Job.objects.create(repository=job.repository, kind=JobKind.UPDATE)) == "succeeded"
    assert not Purge.objects.exists()
    CodeRepository.objects.update(node="another")

    assert run(Job.objects.create(repository=job.repository, kind=JobKind.UPDATE)) == "succeeded"

    assert list(Purge.objects.values_list("repository_id", "node")) == [(job.repository_id, "another")]


def test_repository_that_outgrows_its_reservation_begins_again(job: Job, settings: Settings) -> None:
    """Its children write no more than was reserved; the second time all that the limit allows is."""
    CodeRepository.objects.update(estimated_size_mb=0)
    make_larger(job, 3 * MB)
    allow(settings, SANDBOX_MAX_GB=0.1, MAX_REPO_SIZE_MB=60)

    assert run(job) == "waiting_for_disk"
    job.refresh_from_db()
    assert (job.attempt, job.needed_bytes) == (0, 60 * MB)
    assert "starts again" in job.error_message
    assert not engine.sandbox_of(job.repository).tokens()
    assert services.worker.run_clone(job_id=job.pk) == "succeeded"


def test_repository_beyond_the_limit_is_too_large(job: Job, settings: Settings) -> None:
    """Waiting does not help it."""
    make_larger(job, 3 * MB)
    allow(settings, MAX_REPO_SIZE_MB=2)

    assert run(job) == "failed"
    job.refresh_from_db()
    assert job.error_code == "repository_too_large"


def make_larger(job: Job, size_bytes: int) -> None:
    """Commit a file that does not compress."""
    repository = Path(conf.SANDBOX_BASE_PATH).parent / "served/repository"
    (repository / "large").write_bytes(os.urandom(size_bytes))
    git("add", "large", cwd=repository)
    git("commit", "--quiet", "-m", "large", cwd=repository)


def test_disk_that_is_said_to_be_full_pauses_nobody(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child must not keep its machine from the jobs of others; the attempt is tried again later."""

    def fill(*_: Any, **__: Any) -> Any:
        raise disk_error(OSError(errno.ENOSPC, "No space left on device"))

    with monkeypatch.context() as patched:
        patched.setattr(cloning, "clone", fill)
        assert run(job) == "retry_scheduled"

    job.refresh_from_db()
    assert (job.attempt, job.error_code) == (1, "sandbox_unavailable")
    assert run(job) == "succeeded"


@pytest.fixture
def small_disk(settings: Settings, tmp_path: Path, job: Job) -> Iterator[Path]:
    """A disk of 8 MB for the sandboxes."""
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    options = f"size=8m,mode=700,uid={os.geteuid()}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", str(disk)], check=True)
    allow(settings, SANDBOX_BASE_PATH=str(disk / "repos"))
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_real_disk_that_is_full(job: Job, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before an attempt it waits; what fills up in the middle ends it as what it is, and leaves nothing behind.

    Its machine claims nothing for a while then.
    """
    others = small_disk / "others"
    others.write_bytes(b"x" * 6 * MB)
    assert run(job) == "waiting_for_disk"
    others.unlink()

    def clone_meanwhile(*arguments: Any, **named: Any) -> Any:
        others.write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 50_000))
        return clone(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(cloning, "clone", clone_meanwhile)
        assert run(job) == "retry_scheduled"
    job.refresh_from_db()
    assert (job.attempt, job.error_code) == (1, "sandbox_full")
    assert run(job) == "unclaimed"
    assert not engine.sandbox_of(job.repository).tokens()

    others.unlink()
    Node.objects.update(claims_paused_until=None)
    assert run(job) == "succeeded"


def test_machine_shows_its_disk(job: Job, settings: Settings) -> None:
    """What is used, free and allowed is measured in every round."""
    allow(settings, SANDBOX_MAX_GB=2, SANDBOX_FREE_GB=1)
    assert run(job) == "succeeded"
    node = services.worker.register_node()
    services.worker.run_disk_round(node)

    node.refresh_from_db()
    assert (node.disk_budget_bytes, node.disk_floor_bytes) == (2 * 10**9, 10**9)
    assert node.disk_used_bytes == int((CodeRepository.objects.get().repository_size_mb or 0) * MB)
    assert node.disk_free_bytes
    assert node.disk_free_bytes > 0
    assert node.disk_measured_at is not None


def test_hung_disk_stops_no_upkeep(monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path) -> None:
    """Rounds go on, and do not gather threads that wait for the same disk."""
    allow(settings, SANDBOX_BASE_PATH=str(tmp_path / "repos"))
    hangs, began, rounds = threading.Event(), [0], [0]

    def hang(_: Any) -> Any:
        began[0] += 1
        hangs.wait(30)
        raise OSError(errno.EIO, "Input/output error")

    def run_round() -> Node | None:
        rounds[0] += 1
        if rounds[0] > 3:
            raise SystemExit
        return services.worker.register_node()

    services.worker.register_node()
    Node.objects.update(swept_at=Now())
    monkeypatch.setattr(disk_round, "space_of", hang)
    monkeypatch.setattr(upkeep_thread, "run_round", run_round)
    monkeypatch.setattr(upkeep_thread, "_sleep", lambda _: time.sleep(0.05))
    try:
        with pytest.raises(SystemExit):
            upkeep_thread.run_rounds()
    finally:
        hangs.set()
        for thread in threading.enumerate():
            if thread.name == "coderepos-disk":
                thread.join(10)

    assert (rounds[0], began[0]) == (4, 1)


@pytest.mark.parametrize(
    ("values", "needed_mb"),
    [
        ({"estimated_size_mb": 10}, 21),
        ({"estimated_size_mb": None}, 100),
        ({"estimated_size_mb": 90}, 100),
        ({"estimated_size_mb": 10, "repository_size_mb": 40, "clone_status": CloneStatus.COMPLETED}, 51),
        ({"estimated_size_mb": 70, "repository_size_mb": 40, "clone_status": CloneStatus.COMPLETED}, 71),
    ],
)
def test_room_is_asked_for_by_what_is_known(job: Job, values: dict[str, Any], needed_mb: int) -> None:
    """The estimate before the first clone, what the last one took before another; never more than the limit."""
    CodeRepository.objects.update(**values)
    found = Job.objects.select_related("repository").get()

    assert admission.needed_bytes_of(found, engine.limits()) == needed_mb * MB


def test_missing_root_is_not_measured(job: Job, settings: Settings, tmp_path: Path) -> None:
    """What lies below a mount point that is empty is another disk."""
    node = services.worker.register_node()
    root = this_machine.prepare_root(node)
    (root.path / ".coderepos-root").unlink()

    upkeep_thread._run_disk_round()

    node.refresh_from_db()
    assert node.disk_measured_at is None
