"""Clones go by themselves where the rules of their project let them, and never while somebody uses them."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now
from model_bakery import baker
from pytest_django import Settings

from coderepos import engine, services
from coderepos.crypto.secret import Secret
from coderepos.exceptions import CloneEvicted
from coderepos.models import (
    AuditEntry,
    AuditEvent,
    CloneStatus,
    CodeRepository,
    Job,
    JobKind,
    JobState,
    Node,
    get_project_model,
)
from coderepos.retention import Retention
from coderepos.services.disk import purging, this_machine
from coderepos.services.repositories import cleaning, reading
from coderepos.services.rounds import retaining

pytestmark = pytest.mark.django_db

RULES: dict[Any, Any] = {}
"""What :func:`rules` returns, by project; an exception is raised."""


def rules(project: Any) -> Retention:
    """Return the rules that a test wants."""
    wanted = RULES[project.pk]
    if isinstance(wanted, Exception):
        raise wanted
    return wanted  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def root(settings: Settings, tmp_path: Path) -> Path:
    """A sandbox root of this test's own, and rules."""
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "SANDBOX_FREE_GB": 0,
        "RETENTION": f"{__name__}.rules",
    }
    RULES.clear()
    this_machine.prepare_root(this_machine.register_node())
    return tmp_path / "repos"


def project_with(wanted: object) -> Any:
    """Make a project with rules."""
    project = baker.make(get_project_model())
    RULES[project.pk] = wanted
    return project


def cloned(project: Any, *, unused_hours: float, node: str = "test-node", size_mb: int = 10) -> CodeRepository:
    """Put a clone on the disk that was published and last used so long ago."""
    version = str(uuid.uuid4())
    repository: CodeRepository = baker.make(
        CodeRepository,
        project=project,
        git_url=f"https://h/{uuid.uuid4()}",
        token_ciphertext=Secret(""),
        clone_status=CloneStatus.COMPLETED,
        version=version,
        node=node,
        repository_size_mb=size_mb,
    )
    sandbox = engine.sandbox_of(repository)
    incoming = sandbox.create_incoming(version)
    for name in ("tree", "git"):
        (incoming / name).mkdir()
    sandbox.finish_incoming(version)
    sandbox.activate(version)
    ago = Now() - timedelta(hours=unused_hours)
    CodeRepository.objects.filter(pk=repository.pk).update(
        sandbox_path=str(sandbox.repository_path), cloned_at=ago, last_used_at=ago
    )
    return repository


def upkeep_round() -> str:
    """Do a round on the disk in which the rules are due, and what follows from it."""
    Node.objects.update(retained_at=None)
    node = services.worker.register_node()
    done = services.worker.run_disk_round(node)
    purging.purge(node)
    cleaning.finish_cleaning()
    return done


def kept(*repositories: CodeRepository) -> list[bool]:
    """Return whether each has its clone still, on the disk and by its row."""
    found = []
    for repository in repositories:
        is_there = engine.sandbox_of(repository).repository_path.exists()
        status = CodeRepository.objects.values_list("clone_status", flat=True).get(pk=repository.pk)
        assert is_there == (status == CloneStatus.COMPLETED)
        found.append(is_there)
    return found


def wait_for(needed_mb: int) -> Job:
    """Let a job wait on this machine for so much room."""
    project = project_with(Retention())
    repository = baker.make(
        CodeRepository, project=project, git_url=f"https://h/{uuid.uuid4()}", token_ciphertext=Secret("")
    )
    return Job.objects.create(
        repository=repository,
        node="test-node",
        needed_bytes=needed_mb * 10**6,
        waits_for_disk_since=Now(),
        next_attempt_at=Now() + timedelta(hours=1),
    )


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (Retention(), [True] * 4),
        (Retention(evictable=True), [True] * 4),
        (Retention(keep_newest=2), [True, True, False, False]),
        (Retention(keep_newest=0), [True, False, False, False]),
        (Retention(unused_days=3), [True, True, True, False]),
        (Retention(unused_days=1), [True, True, False, False]),
        (Retention(keep_newest=3, unused_days=1), [True, True, True, False]),
        (Retention(keep_newest=9), [True] * 4),
        (Retention(keep_newest=2, evictable=True), [True] * 4),
        (Retention(unused_days=1, evictable=True), [True, True, False, False]),
        (Retention(unused_days=0.001), [True, False, False, False]),
        (ValueError("a function of the host"), [True] * 4),
        ("none", [True] * 4),
        (None, [True] * 4),
    ],
)
def test_clones_expire_by_the_rules(wanted: object, left: list[bool]) -> None:
    """The newest stay, as do those in use; a function that fails, or returns anything else, keeps everything."""
    project = project_with(wanted)
    repositories = [cloned(project, unused_hours=hours) for hours in (1, 20, 40, 80)]

    upkeep_round()

    assert kept(*repositories) == left


def test_expired_clone_is_one_click_away(settings: Settings) -> None:
    """Its row says why it went, the audit trail too, and it can be cloned again."""
    repository = cloned(project_with(Retention(unused_days=1)), unused_hours=30)
    assert upkeep_round() == "1 expired, 0 evicted, 0 woken"
    assert upkeep_round() == "0 expired, 0 evicted, 0 woken"

    repository.refresh_from_db()
    assert (repository.clone_status, repository.error_code) == (CloneStatus.CLEANED, "expired")
    assert services.status_of(repository).progress_message == repository.error_message
    entry = AuditEntry.objects.get(event=AuditEvent.CLEANED)
    assert (entry.details["reason"], entry.actor_name) == ("expired", "")
    assert repository.restart()
    repository.refresh_from_db()
    assert repository.error_code == ""


def test_rules_of_one_project_do_not_touch_another() -> None:
    """Nor does one whose function fails keep others from theirs."""
    theirs = cloned(project_with(RuntimeError("a function of the host")), unused_hours=80)
    ours = cloned(project_with(Retention(unused_days=1)), unused_hours=80)
    elsewhere = cloned(ours.project, unused_hours=80, node="another")

    upkeep_round()

    assert kept(theirs, ours, elsewhere) == [True, False, True]


def test_newest_are_counted_wherever_they_are() -> None:
    """Clones on other machines are newer or older like those here."""
    project = project_with(Retention(keep_newest=1))
    newest, here = cloned(project, unused_hours=20, node="another"), cloned(project, unused_hours=40)

    upkeep_round()

    assert kept(newest, here) == [True, False]


def test_nothing_goes_by_default(settings: Settings) -> None:
    """Whatever is missing, without rules everything is kept."""
    del settings.CODEREPOS["RETENTION"]
    repository = cloned(project_with(None), unused_hours=10_000)
    settings.CODEREPOS["SANDBOX_MAX_GB"] = 0.001
    job = wait_for(50)

    assert upkeep_round() == "0 expired, 0 evicted, 0 woken"
    assert kept(repository) == [True]
    assert not Job.objects.due().filter(pk=job.pk).exists()


def test_least_recently_used_goes_first_for_one_who_waits(settings: Settings) -> None:
    """As many as are missing, none that is protected, and the job begins when they are gone."""
    settings.CODEREPOS["SANDBOX_MAX_GB"] = 0.06
    open_project = project_with(Retention(evictable=True, keep_newest=1))
    protected = cloned(project_with(Retention()), unused_hours=900)
    newest, third, second, first = (cloned(open_project, unused_hours=hours) for hours in (3, 4, 500, 600))
    in_use = cloned(open_project, unused_hours=0)
    CodeRepository.objects.filter(pk=newest.pk).update(cloned_at=Now())
    job = wait_for(20)

    assert upkeep_round() == "0 expired, 2 evicted, 0 woken"
    assert kept(protected, newest, third, second, first, in_use) == [True, True, True, False, False, True]
    services.worker.reap()
    assert upkeep_round() == "0 expired, 0 evicted, 1 woken"
    assert Job.objects.due().filter(pk=job.pk).exists()


@pytest.mark.parametrize(("needed_mb", "evicted"), [(100, 0), (40, 0), (20, 1)])
def test_no_clone_goes_in_vain(settings: Settings, needed_mb: int, evicted: int) -> None:
    """A job that would not fit if all went that may go takes nobody's clone, and keeps no room from another one."""
    settings.CODEREPOS["SANDBOX_MAX_GB"] = 0.06
    cloned(project_with(Retention()), unused_hours=900, size_mb=30)
    project = project_with(Retention(evictable=True))
    repositories = [cloned(project, unused_hours=hours) for hours in (3, 4)]
    wait_for(100)
    wait_for(needed_mb)

    assert upkeep_round() == f"0 expired, {evicted} evicted, 0 woken"
    assert kept(*repositories) == [True, not evicted]


def test_passed_budget_is_brought_back(settings: Settings) -> None:
    """One that was lowered is reached by the rules, with some headroom."""
    project = project_with(Retention(evictable=True))
    repositories = [cloned(project, unused_hours=hours) for hours in (2, 3, 4, 5)]
    settings.CODEREPOS["SANDBOX_MAX_GB"] = 0.03

    assert upkeep_round() == "0 expired, 2 evicted, 0 woken"
    assert kept(*repositories) == [True, True, False, False]


def test_clones_that_leave_count_until_they_are_gone(settings: Settings) -> None:
    """A disk that removes slowly neither gets more than it has, nor loses more clones than are missing."""
    settings.CODEREPOS["SANDBOX_MAX_GB"] = 0.02
    project = project_with(Retention(evictable=True))
    repositories = [cloned(project, unused_hours=hours) for hours in (3, 4)]
    wait_for(10)
    node = services.worker.register_node()

    for number in range(3):
        assert services.worker.run_disk_round(node) == f"0 expired, {int(not number)} evicted, 0 woken"
        node.refresh_from_db()
        assert node.disk_used_bytes == 20 * 10**6
    purging.purge(node)
    cleaning.finish_cleaning()
    services.worker.reap()
    assert services.worker.run_disk_round(node) == "0 expired, 0 evicted, 1 woken"
    assert kept(*repositories) == [True, False]


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING])
def test_clone_that_is_made_anew_stays(settings: Settings, state: JobState) -> None:
    """Its job needs it, or replaces it."""
    repository = cloned(project_with(Retention(evictable=True, unused_days=1)), unused_hours=80)
    Job.objects.create(repository=repository, kind=JobKind.UPDATE, state=state)
    settings.CODEREPOS["SANDBOX_MAX_GB"] = 0.001

    upkeep_round()

    assert kept(repository) == [True]


@pytest.mark.parametrize("wanted", [Retention(unused_days=1), Retention(keep_newest=0), Retention(evictable=True)])
def test_clone_that_was_just_updated_stays(settings: Settings, wanted: Retention) -> None:
    """Whoever had it cloned again gets the time to open it, however long nobody had used the version before."""
    repository = cloned(project_with(wanted), unused_hours=80)
    CodeRepository.objects.update(cloned_at=Now())
    settings.CODEREPOS["SANDBOX_MAX_GB"] = 0.001

    upkeep_round()

    assert kept(repository) == [True]


def test_clone_of_a_worker_before_the_upgrade_expires() -> None:
    """It ran while the tables were migrated, and recorded no use."""
    project = project_with(Retention(unused_days=3))
    repositories = [cloned(project, unused_hours=hours) for hours in (40, 80)]
    CodeRepository.objects.update(last_used_at=None)

    upkeep_round()

    assert kept(*repositories) == [True, False]


@pytest.mark.parametrize("event", ["opened", "cleaned", "queued", "deleted"])
def test_what_changed_meanwhile_is_left_alone(event: str) -> None:
    """Between the look at a clone and its removal, its reader or its owner was quicker."""
    repository = cloned(project_with(Retention(evictable=True)), unused_hours=80)
    if event == "opened":
        CodeRepository.objects.update(last_used_at=Now())
    elif event == "cleaned":
        CodeRepository.objects.update(clone_status=CloneStatus.CLEANING)
    elif event == "queued":
        Job.objects.create(repository=repository, kind=JobKind.UPDATE)
    else:
        CodeRepository.objects.all().delete()
    before = list(CodeRepository.objects.values_list("clone_status", "error_code"))

    assert not retaining._remove(repository.pk, CloneEvicted(), idle_seconds=reading.IN_USE_SECONDS)
    assert list(CodeRepository.objects.values_list("clone_status", "error_code")) == before


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "3"])
@pytest.mark.parametrize("name", ["keep_newest", "unused_days"])
def test_rules_that_are_no_numbers_are_refused(name: str, value: Any) -> None:
    """They would remove what is in use, or end the upkeep of everything else."""
    with pytest.raises(ValueError, match="must be a"):
        Retention(**{name: value})
