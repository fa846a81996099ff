"""Cleaning and deleting: no byte stays on any machine, whatever state the repository and the machine are in."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db.models import ProtectedError
from django.db.models.functions import Now
from django.db.models.signals import pre_delete
from django.test import override_settings
from model_bakery import baker
from pytest_django import Settings

from coderepos import engine, services, signals
from coderepos.conf import conf
from coderepos.crypto.secret import Secret
from coderepos.exceptions import InvalidState, JobRunning, NotFound, PermissionDenied, SandboxRootMissing
from coderepos.models import AuditEntry, CloneStatus, CodeRepository, Job, JobState, Node, Purge
from coderepos.projects.models import Project
from coderepos.sandbox.sandbox import Sandbox
from coderepos.services.disk import purging, this_machine
from coderepos.services.repositories import cleaning
from coderepos.services.rounds import upkeep_thread
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def base(settings: Settings, tmp_path: Path) -> Path:
    """A sandbox root of this test's own."""
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(tmp_path / "repos"), "NODE_ID": "here"}
    node = this_machine.register_node()
    this_machine.prepare_root(node)
    node.record_heartbeat()
    return tmp_path / "repos"


@pytest.fixture
def root(django_user_model: Any) -> Any:
    """Who may do everything."""
    return django_user_model.objects.create_superuser("root")


@pytest.fixture
def repository() -> CodeRepository:
    """A repository that is COMPLETED, with its clone on this machine's disk."""
    return cloned(baker.make(Project))


def cloned(project: Any, **values: Any) -> CodeRepository:
    """Return a repository that is COMPLETED, with its clone on this machine's disk."""
    name = str(uuid.uuid4())
    row: CodeRepository = baker.make(
        CodeRepository,
        project=project,
        git_url=f"https://h/{name}",
        url_key=f"https://h/{name}",
        token_ciphertext=Secret(""),
        clone_status=CloneStatus.COMPLETED,
        **{"version": "one", "node": conf.node_id, "commit_id": "c" * 40, "repository_size_mb": 7, **values},
    )
    sandbox = engine.sandbox_of(row)
    publish(sandbox, "one")
    CodeRepository.objects.filter(pk=row.pk).update(sandbox_path=str(sandbox.repository_path))
    row.refresh_from_db()
    return row


def publish(sandbox: Sandbox, token: str) -> None:
    """Put a version on the disk and show it."""
    incoming = sandbox.create_incoming(token)
    for name in ("tree", "git"):
        (incoming / name).mkdir()
        (incoming / name / "file").write_text("content")
    sandbox.finish_incoming(token)
    sandbox.activate(token)


def files_in(path: Path) -> list[Path]:
    """Return every file below a directory."""
    return [one for one in path.rglob("*") if one.is_file() and not one.is_symlink()]


def round_of_upkeep() -> str:
    """Let this machine do what it does every ten seconds."""
    return upkeep_thread.maintain()


def status_of(repository: CodeRepository) -> str:
    """Return the stored state."""
    return CodeRepository.objects.values_list("clone_status", flat=True).get(pk=repository.pk)


def test_cleaned_repository_keeps_its_row_alone(repository: CodeRepository, root: Any) -> None:
    """Readers find nothing from the answer on, and after a round of upkeep the disk has nothing."""
    answer = services.clean_repository(user=root, repository=repository)

    assert (answer.clone_status, answer.version, answer.sandbox_path) == ("CLEANING", "", None)
    assert (answer.node, answer.repository_size_mb) == ("here", Decimal(7))  # which its bytes take until they are gone
    assert services.status_of(repository).progress_message == "Removing the clone from disk"

    round_of_upkeep()

    assert status_of(repository) == CloneStatus.CLEANED
    assert not engine.sandbox_of(repository).path.parent.exists()
    repository.refresh_from_db()
    assert (repository.node, repository.repository_size_mb, repository.commit_id) == ("", None, "c" * 40)
    assert not Purge.objects.exists()
    entry = AuditEntry.objects.get()
    assert (entry.event, entry.actor_name) == ("cleaned", "root")
    assert entry.details == {"version": "one", "commit_id": "c" * 40}


def test_cleaned_repository_is_cloned_again(repository: CodeRepository, root: Any, tmp_path: Path) -> None:
    """Its next clone is published and stays."""
    make_repository(tmp_path / "served/repository")
    with GitServer(tmp_path / "served") as server:
        repository.git_url = server.url("repository")
        with allowed(server):
            repository.save()
            services.clean_repository(user=root, repository=repository)
            with pytest.raises(JobRunning):
                services.clone_repository(user=root, repository=repository)
            round_of_upkeep()
            job = services.clone_repository(user=root, repository=repository)
            assert services.worker.run_clone(job_id=job.pk) == "succeeded"
    round_of_upkeep()

    repository.refresh_from_db()
    sandbox = engine.sandbox_of(repository)
    assert repository.clone_status == CloneStatus.COMPLETED
    assert sandbox.current() == repository.version
    assert files_in(sandbox.repository_path.resolve())


def allowed(server: GitServer) -> Any:
    """Let a loopback server be asked, for the length of a ``with`` block."""
    hosts = {"PRIVATE_GIT_HOSTS": [server.host], "INSECURE_HTTP_HOSTS": [server.host]}
    return override_settings(CODEREPOS={**django_settings.CODEREPOS, **hosts})


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING])
def test_what_is_under_way_is_not_cleaned(repository: CodeRepository, root: Any, state: str) -> None:
    """It is cancelled first; nothing was changed."""
    Job.objects.create(repository=repository, kind="UPDATE", state=state)

    with pytest.raises(JobRunning, match="cancel it first"):
        services.clean_repository(user=root, repository=repository)

    assert (status_of(repository), Purge.objects.count(), AuditEntry.objects.count()) == ("COMPLETED", 0, 0)
    services.cancel_repository(user=root, repository=repository)
    assert services.clean_repository(user=root, repository=repository).clone_status == CloneStatus.CLEANING


@pytest.mark.parametrize(
    ("status", "error"), [("CLEANED", InvalidState), ("CLEANING", JobRunning), ("PENDING", JobRunning)]
)
def test_states_that_are_not_cleaned(repository: CodeRepository, root: Any, status: str, error: type) -> None:
    """What is clean, or at work, is refused with what it is."""
    CodeRepository.objects.filter(pk=repository.pk).update(clone_status=status)

    with pytest.raises(error):
        services.clean_repository(user=root, repository=repository)

    assert status_of(repository) == status


def test_bytes_of_every_machine_go(repository: CodeRepository, root: Any) -> None:
    """Each that ever ran a job of it confirms; one that is away is named, and ends it when it is back."""
    Node.objects.create(name="away", last_seen=None)
    Job.objects.create(repository=repository, state=JobState.FAILED, node="away")
    services.clean_repository(user=root, repository=repository)

    round_of_upkeep()

    assert status_of(repository) == CloneStatus.CLEANING
    assert list(Purge.objects.values_list("node", flat=True)) == ["away"]
    assert "waiting for away, not seen at work" in services.status_of(repository).progress_message

    purging.purge(Node.objects.get(name="away"))  # by a root of the same place, as another machine by its own
    cleaning.finish_cleaning()

    assert status_of(repository) == CloneStatus.CLEANED


def test_machine_that_was_removed_is_not_waited_for(repository: CodeRepository, root: Any) -> None:
    """Its disk went with it."""
    CodeRepository.objects.filter(pk=repository.pk).update(node="scrapped")
    repository.refresh_from_db()
    services.clean_repository(user=root, repository=repository)

    round_of_upkeep()

    assert status_of(repository) == CloneStatus.CLEANED


def test_disk_that_is_away_confirms_nothing(repository: CodeRepository, root: Any, base: Path) -> None:
    """Nothing is gone while the sandbox root is not mounted; afterwards it goes."""
    services.clean_repository(user=root, repository=repository)
    base.rename(base.parent / "elsewhere")

    with pytest.raises(SandboxRootMissing):
        purging.purge(this_machine.register_node())
    cleaning.finish_cleaning()
    assert status_of(repository) == CloneStatus.CLEANING

    (base.parent / "elsewhere").rename(base)
    assert purging.purge(this_machine.register_node()) == "1 of 1 purged"
    assert not files_in(engine.sandbox_of(repository).path)


def test_sandbox_that_fails_holds_no_other_up(root: Any) -> None:
    """It is tried again in the next round, after those that were not tried yet."""
    bad, good = cloned(baker.make(Project)), cloned(baker.make(Project))
    for one in (bad, good):
        services.disconnect_repository(user=root, repository=one)
    place = engine.sandbox_of(bad).path
    place.chmod(0o777)

    assert purging.purge(this_machine.register_node()) == "1 of 2 purged"

    assert not engine.sandbox_of(good).path.exists()
    place.chmod(0o700)
    assert purging.purge(this_machine.register_node()) == "1 of 1 purged"
    assert not place.exists()


def test_request_outlives_the_confirmation_of_an_older_one(repository: CodeRepository, root: Any) -> None:
    """A machine that looked before the second request came confirms nothing by that."""
    Purge.objects.request(repository.pk, project_key=str(repository.project_id), nodes=["here"])
    seen = Purge.objects.get()
    services.clean_repository(user=root, repository=repository)

    assert not purging._purge_one(seen, engine.sandbox_root())

    assert Purge.objects.get().request_id != seen.request_id


def test_upkeep_that_was_frozen_ends_no_later_cleaning(repository: CodeRepository, root: Any) -> None:
    """It found a repository without any bytes, and wakes when that was cloned again and is cleaned again."""
    services.clean_repository(user=root, repository=repository)
    found = CodeRepository.objects.get(pk=repository.pk)

    assert not found.end_cleaning()

    assert status_of(repository) == CloneStatus.CLEANING
    round_of_upkeep()
    assert status_of(repository) == CloneStatus.CLEANED


def test_frozen_purge_removes_nothing_of_the_next_clone(
    repository: CodeRepository, root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that froze after it listed a sandbox, and wakes when another version is published there, leaves that."""
    services.clean_repository(user=root, repository=repository)
    sandbox = engine.sandbox_of(repository)
    retract = Sandbox.retract

    def freeze(self: Sandbox, token: str) -> None:
        monkeypatch.undo()
        # Meanwhile another process of this machine does the same, and the repository is cloned again.
        retract(sandbox, "one")
        publish(sandbox, "two")
        retract(self, token)

    monkeypatch.setattr(Sandbox, "retract", freeze)
    purging.purge(this_machine.register_node())

    assert (sandbox.current(), sandbox.tokens()) == ("two", {"two"})
    assert len(files_in(sandbox.path)) == 2


@pytest.mark.parametrize("state", ["queued", "running", "failed", "cleaning", "completed"])
def test_deleted_repository_leaves_no_byte(repository: CodeRepository, root: Any, base: Path, state: str) -> None:
    """In every state it is gone with the answer, and its bytes with the next round."""
    if state in ("queued", "running"):
        Job.objects.create(repository=repository, kind="UPDATE")
    if state == "running":
        claim = Job.objects.claim(Job.objects.get().pk, node=conf.node_id)
        assert claim is not None
        engine.sandbox_of(repository).create_incoming(str(claim.lease_token))
    if state == "failed":
        CodeRepository.objects.filter(pk=repository.pk).update(clone_status=CloneStatus.FAILED)
    if state == "cleaning":
        services.clean_repository(user=root, repository=repository)
        repository.refresh_from_db()

    services.disconnect_repository(user=root, repository=repository)

    assert not CodeRepository.objects.exists()
    assert not Job.objects.exists()
    round_of_upkeep()
    assert [path.name for path in base.iterdir()] == [".coderepos-root"]
    entry = AuditEntry.objects.newest_first()[0]
    assert (entry.event, entry.actor_name) == ("disconnected", "root")
    if state == "running":
        # Its worker may not have noticed: the machine looks again until it must have.
        assert Purge.objects.exists()
        Purge.objects.update(settles_at=Now() - timedelta(seconds=1))
        round_of_upkeep()
    assert not Purge.objects.exists()
    with pytest.raises(NotFound):
        services.disconnect_repository(user=root, repository=repository)


def test_repository_that_the_host_protects_stays(repository: CodeRepository, root: Any) -> None:
    """A foreign key of the host's that protects it is no lock that another process holds: waiting does not help."""
    job = Job.objects.create(repository=repository)

    def protect(instance: CodeRepository, **_: Any) -> None:
        raise ProtectedError("A row of the host refers to it.", {instance})

    pre_delete.connect(protect, sender=CodeRepository)
    try:
        with pytest.raises(InvalidState, match="depends on the repository"):
            services.disconnect_repository(user=root, repository=repository)
    finally:
        pre_delete.disconnect(protect, sender=CodeRepository)

    job.refresh_from_db()
    assert (job.state, Purge.objects.count(), status_of(repository)) == (JobState.QUEUED, 0, CloneStatus.COMPLETED)


def test_project_that_goes_takes_its_bytes_along(base: Path) -> None:
    """The ORM's cascade requests a purge of each repository, whichever way the deletion takes."""
    project = baker.make(Project)
    for _ in range(3):
        cloned(project)

    Project.objects.filter(pk=project.pk).delete()

    round_of_upkeep()
    assert [path.name for path in base.iterdir()] == [".coderepos-root"]


def test_worker_of_a_deleted_repository_removes_all(
    repository: CodeRepository, root: Any, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that notices late, after the machine has confirmed, leaves not even an empty directory."""
    make_repository(tmp_path / "served/repository")
    with GitServer(tmp_path / "served") as server, allowed(server):
        repository.git_url = server.url("repository")
        repository.save()
        job = services.clone_repository(user=root, repository=repository)
        create = Sandbox.create_incoming

        def delete_meanwhile(self: Sandbox, token: str) -> Path:
            services.disconnect_repository(user=root, repository=repository)
            round_of_upkeep()
            return create(self, token)

        monkeypatch.setattr(Sandbox, "create_incoming", delete_meanwhile)
        assert services.worker.run_clone(job_id=job.pk) == "lost"

    assert [path.name for path in base.iterdir()] == [".coderepos-root"]


def test_who_may(repository: CodeRepository, django_user_model: Any) -> None:
    """A role that does not allow it changes nothing."""
    stranger = django_user_model.objects.create_user("stranger")
    for service in (services.clean_repository, services.disconnect_repository):
        with pytest.raises(PermissionDenied):
            service(user=stranger, repository=repository)
    assert status_of(repository) == CloneStatus.COMPLETED


@pytest.fixture
def heard() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What the signals of the end of a repository told, to receivers that raise."""
    told: list[tuple[str, dict[str, Any]]] = []

    def listen_to(name: str) -> Any:
        def listen(*, signal: Any, sender: Any, **sent: Any) -> None:
            assert sender is CodeRepository
            told.append((name, sent))
            raise RuntimeError("a receiver of the host")

        return listen

    names = ("repository_cleaned", "repository_disconnected")
    receivers = {name: listen_to(name) for name in names}
    for name, receiver in receivers.items():
        getattr(signals, name).connect(receiver)
    yield told
    for name, receiver in receivers.items():
        getattr(signals, name).disconnect(receiver)


def test_signals_are_sent_once(repository: CodeRepository, root: Any, heard: list[tuple[str, dict[str, Any]]]) -> None:
    """After the last machine has removed its bytes, and after the deletion; receivers that raise harm nothing."""
    about = {"repository_id": repository.pk, "project_id": repository.project_id, "commit_id": "c" * 40}
    services.clean_repository(user=root, repository=repository)
    assert not heard
    for _ in range(2):
        round_of_upkeep()
    assert heard == [("repository_cleaned", {**about, "version": "one"})]

    services.disconnect_repository(user=root, repository=repository)
    assert heard[1:] == [("repository_disconnected", {**about, "version": ""})]
