"""The disk and the database are compared, both ways, in a few queries."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import uuid
from pathlib import Path
from typing import Any

import pytest
from model_bakery import baker
from pytest_django import DjangoAssertNumQueries, Settings

from coderepos import engine, services
from coderepos.crypto.secret import Secret
from coderepos.exceptions import RemoteAuthFailed
from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, JobState
from coderepos.projects.models import Project
from coderepos.sandbox.sandbox import Sandbox
from coderepos.services.disk import sweeping, this_machine
from tests.support.database import connection

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def root(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sandbox root of this test's own, in which everything is old enough."""
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(tmp_path / "repos")}
    monkeypatch.setattr(this_machine, "SWEEP_AFTER_SECONDS", -1)
    this_machine.prepare_root(this_machine.register_node())
    return tmp_path / "repos"


@pytest.fixture
def project() -> Any:
    """A project."""
    return baker.make(Project)


def publish(sandbox: Sandbox, token: str) -> None:
    """Put a version on the disk and show it."""
    incoming = sandbox.create_incoming(token)
    for name in ("tree", "git"):
        (incoming / name).mkdir()
        (incoming / name / "file").write_text("content")
    sandbox.finish_incoming(token)
    sandbox.activate(token)


def cloned(project: Any, version: str = "one", **values: Any) -> CodeRepository:
    """Return a repository that is COMPLETED, with its clone on the disk."""
    repository: CodeRepository = baker.make(
        CodeRepository,
        project=project,
        git_url=f"https://h/{uuid.uuid4()}",
        url_key=str(uuid.uuid4()),
        token_ciphertext=Secret(""),
        clone_status=CloneStatus.COMPLETED,
        **{"version": version, "node": this_machine.register_node().name, **values},
    )
    sandbox = engine.sandbox_of(repository)
    publish(sandbox, version)
    CodeRepository.objects.filter(pk=repository.pk).update(sandbox_path=str(sandbox.repository_path))
    return repository


def state_of(repository: CodeRepository) -> tuple[str, str, bool]:
    """Return status, error code, and whether the row names a sandbox."""
    repository.refresh_from_db()
    return repository.clone_status, repository.error_code, repository.sandbox_path is not None


COMPLETED = (CloneStatus.COMPLETED, "", True)
MISSING = (CloneStatus.FAILED, "sandbox_missing", False)


@pytest.mark.parametrize("part", [".", "versions", "versions/one", "versions/one/tree", "versions/one/git"])
def test_clone_that_is_gone_is_reported(project: Any, part: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is gone of it: the row says so, the log has one line, and its neighbour stays as it is."""
    repository, neighbour = cloned(project), cloned(project)
    removed(engine.sandbox_of(repository).path / part)

    assert services.worker.sweep() == "0 removed, 1 missing, 0 found again"

    assert state_of(repository) == MISSING
    assert state_of(neighbour) == COMPLETED
    assert [one.levelno for one in caplog.records if str(repository.pk) in one.message] == [logging.ERROR]
    assert services.worker.sweep() == "0 removed, 0 missing, 0 found again"


def test_clone_that_is_put_back_is_found(project: Any) -> None:
    """A disk that was repaired is believed: the row is COMPLETED again, and nothing was swept away."""
    repository = cloned(project)
    sandbox = engine.sandbox_of(repository)
    sandbox.path.rename(sandbox.path.parent / "elsewhere")
    services.worker.sweep()
    assert state_of(repository) == MISSING
    (sandbox.path.parent / "elsewhere").rename(sandbox.path)

    assert services.worker.sweep() == "0 removed, 0 missing, 1 found again"

    assert state_of(repository) == COMPLETED
    assert (sandbox.repository_path / "file").exists()


def test_clone_is_found_although_its_replacement_failed(project: Any) -> None:
    """Its machine was away for long, the Git host refused another clone, and the machine is back."""
    repository, cleaned = cloned(project), cloned(project)
    assert repository.displace(version="one", node=repository.node)
    assert repository.fail(RemoteAuthFailed())
    assert cleaned.begin_cleaning()
    CodeRepository.objects.filter(pk=cleaned.pk).update(clone_status=CloneStatus.FAILED)

    assert services.worker.sweep() == "0 removed, 0 missing, 1 found again"

    assert (state_of(repository), state_of(cleaned)[0]) == (COMPLETED, CloneStatus.FAILED)


def test_row_at_work_is_left_to_its_job(project: Any) -> None:
    """A job that is queued or running will make another version; until then the row stays as it is."""
    repository = cloned(project)
    removed(engine.sandbox_of(repository).path)
    job = Job.objects.create(repository=repository, kind=JobKind.UPDATE)

    services.worker.sweep()
    assert state_of(repository) == COMPLETED

    Job.objects.filter(pk=job.pk).update(state=JobState.FAILED)
    services.worker.sweep()
    assert state_of(repository) == MISSING


def test_rows_of_other_disks_are_left_alone(project: Any, settings: Settings, tmp_path: Path) -> None:
    """This machine sees neither another machine's clones nor those in another root of its own."""
    foreign, before = cloned(project, node="another"), cloned(project)
    for repository in (foreign, before):
        removed(engine.sandbox_of(repository).path)
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(tmp_path / "new")}

    services.worker.sweep()

    assert state_of(foreign) == state_of(before) == COMPLETED


def test_machine_under_another_name_knows_its_clones(project: Any, settings: Settings) -> None:
    """A container that comes back under another host name still sweeps what is its own."""
    kept, gone = cloned(project), cloned(project)
    removed(engine.sandbox_of(gone).path)
    settings.CODEREPOS = {**settings.CODEREPOS, "NODE_ID": "renamed"}

    services.worker.sweep()

    assert state_of(kept) == COMPLETED
    assert state_of(gone) == MISSING


def test_disk_that_goes_during_the_sweep_reports_nothing(project: Any, root: Path) -> None:
    """What was not seen because the mount went away is not missing."""
    repository = cloned(project)
    sweep = sweeping._Sweep(engine.sandbox_root(), this_machine.register_node(), 0)
    root.rename(root.parent / "unplugged")
    root.mkdir(mode=0o700)

    sweep.tidy()
    sweep.report_missing()

    assert state_of(repository) == COMPLETED


def test_published_version_is_shown_again(project: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Where a worker that froze left the link elsewhere, readers see what the row names, and the other version goes."""
    repository = cloned(project, "published")
    sandbox = engine.sandbox_of(repository)
    publish(sandbox, "sleeper")

    services.worker.sweep()

    assert sandbox.current() == "published"
    assert sandbox.tokens() == {"published"}
    assert "its links are reset to version published" in caplog.text


def test_empty_sandbox_of_a_known_repository_goes(project: Any) -> None:
    """Links that lead nowhere are left on no disk."""
    repository = cloned(project, "published")
    sandbox = engine.sandbox_of(repository)
    sandbox.retract("published")
    assert sandbox.repository_path.is_symlink()
    CodeRepository.objects.update(clone_status=CloneStatus.CLEANED, version="", node="")

    services.worker.sweep()

    assert not sandbox.path.parent.exists()


def test_links_that_are_lost_are_set_again(project: Any) -> None:
    """The way of readers leads to the published version once more."""
    repository = cloned(project, "published")
    sandbox = engine.sandbox_of(repository)
    sandbox.repository_path.unlink()

    services.worker.sweep()

    assert sandbox.repository_path.is_dir()
    assert state_of(repository) == COMPLETED


def test_link_of_a_running_job_is_left_alone(project: Any) -> None:
    """Between activation and commit the link is ahead of the row."""
    repository = cloned(project, "published")
    sandbox = engine.sandbox_of(repository)
    job = Job.objects.create(
        repository=repository, kind=JobKind.UPDATE, state=JobState.RUNNING, lease_token=uuid.uuid4()
    )
    publish(sandbox, str(job.lease_token))

    services.worker.sweep()

    assert sandbox.current() == str(job.lease_token)
    assert sandbox.tokens() == {"published", str(job.lease_token)}


def test_clone_that_moved_to_another_machine_goes(project: Any) -> None:
    """What this machine published before the other one did is nobody's any more, shown or not."""
    repository = cloned(project, "here")
    CodeRepository.objects.filter(pk=repository.pk).update(version="there", node="another")

    services.worker.sweep()

    assert engine.sandbox_of(repository).tokens() == set()
    assert state_of(repository) == COMPLETED


@pytest.mark.parametrize("how", ["orm", "sql"])
def test_deleted_projects_leave_no_byte(project: Any, root: Path, how: str) -> None:
    """Rows that the host deleted, by the ORM's cascade or behind its back, take their sandboxes with the next sweep."""
    gone, kept = [cloned(project) for _ in range(3)], cloned(baker.make(Project))
    engine.sandbox_of(gone[0]).create_incoming("building")
    if how == "orm":
        project.delete()
    else:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM code_repos WHERE project_id = %s", [gone[0].project_id.hex])
            cursor.execute("DELETE FROM code_repos WHERE project_id = %s", [str(gone[0].project_id)])
    assert CodeRepository.objects.get() == kept

    services.worker.sweep()

    left = {path.relative_to(root).parts[0] for path in root.rglob("*")}
    assert left == {".coderepos-root", str(kept.project_id)}


@pytest.mark.parametrize("level", ["project", "sandbox", "versions"])
def test_one_bad_sandbox_costs_one_line(project: Any, level: str, caplog: pytest.LogCaptureFixture) -> None:
    """The others are swept, and nothing is claimed of what can't be looked at."""
    bad, good = cloned(project), cloned(baker.make(Project))
    sandboxes = [engine.sandbox_of(one) for one in (bad, good)]
    for sandbox in sandboxes:
        sandbox.create_incoming("dead")
    places = {"project": sandboxes[0].path.parent, "sandbox": sandboxes[0].path}
    place = places.get(level, sandboxes[0].path / "versions")
    place.chmod(0o777)

    services.worker.sweep()

    assert sandboxes[1].tokens() == {"one"}
    assert state_of(bad) == COMPLETED
    assert len([one for one in caplog.records if str(sandboxes[0].path.parent) in one.message]) == 1
    place.chmod(0o700)
    services.worker.sweep()
    assert sandboxes[0].tokens() == {"one"}


def test_unexpected_error_costs_one_line(
    project: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of ours in one sandbox is logged with its traceback, and the others are swept."""
    first, second = cloned(project), cloned(project)
    for repository in (first, second):
        engine.sandbox_of(repository).create_incoming("dead")
    sweep = Sandbox.sweep

    def fail_once(sandbox: Sandbox, **values: Any) -> int:
        if sandbox.repository_id == str(first.pk):
            raise ZeroDivisionError
        return sweep(sandbox, **values)

    monkeypatch.setattr(Sandbox, "sweep", fail_once)
    services.worker.sweep()

    assert engine.sandbox_of(second).tokens() == {"one"}
    assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 1
    assert "ZeroDivisionError" in caplog.text


def test_queries_do_not_grow_with_sandboxes(
    project: Any, django_assert_max_num_queries: DjangoAssertNumQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One query for each batch, a few for the whole."""
    monkeypatch.setattr(sweeping, "BATCH", 20)
    for _ in range(60):
        cloned(project)

    with django_assert_max_num_queries(3 + 6):
        assert services.worker.sweep() == "0 removed, 0 missing, 0 found again"


def test_clone_published_while_the_sweep_was_frozen_stays(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came after the sweep asked the database stays, however old it is when the sweep goes on."""
    repository = cloned(project, "old", node="")
    CodeRepository.objects.filter(pk=repository.pk).update(clone_status=CloneStatus.PENDING, version="")
    sandbox = engine.sandbox_of(repository)
    sandbox.create_incoming("left-behind")
    asked = sweeping._Sweep._rows

    def asked_then_frozen(self: Any, ids: Any) -> Any:
        rows = asked(self, ids)
        publish(sandbox, "new")
        sandbox.create_incoming("building")
        CodeRepository.objects.filter(pk=repository.pk).update(
            clone_status=CloneStatus.COMPLETED, version="new", node=this_machine.register_node().name
        )
        return rows

    monkeypatch.setattr(sweeping._Sweep, "_rows", asked_then_frozen)
    assert services.worker.sweep() == "2 removed, 0 missing, 0 found again"

    assert sandbox.has_version("new")
    assert {*sandbox.incomings()} == {"building"}


def removed(path: Path) -> None:
    """Remove what is read-only, as an operator would."""
    for directory, names, _ in os.walk(path):
        for name in (".", *names):
            os.chmod(os.path.join(directory, name), 0o700)
    path.parent.chmod(stat.S_IMODE(path.parent.stat().st_mode) | 0o700)
    shutil.rmtree(path.parent / path.name if path.name else path)
