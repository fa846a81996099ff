"""The disk is a cache of the storage: what is stored leaves it to make room, and comes back when it is read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connections, transaction
from django.db.models.functions import Now
from pytest_django import Settings

from coderepos import services
from coderepos.exceptions import InvalidState, NotOnDisk
from coderepos.models import (
    AuditEntry,
    AuditEvent,
    CloneStatus,
    CodeRepository,
    Flow,
    Job,
    JobKind,
    JobState,
    PackState,
    Purge,
    StoredPack,
)
from coderepos.retention import Retention
from coderepos.services.disk import purging
from coderepos.services.packs import recalling
from coderepos.services.packs.relocating import LIMITS
from coderepos.services.repositories import cleaning, reading
from coderepos.services.rounds import retaining
from tests.support.servers.git_http_backend import GitServer
from tests.support.two_machines import TwoMachines, connected, newest_job

pytestmark = pytest.mark.django_db(transaction=True)

RULES = Retention()


def rules(project: Any) -> Retention:
    """Return the rules that a test wants."""
    return RULES


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No use was recorded by this process yet."""
    monkeypatch.setattr(reading, "_recorded", reading._Recorded())


def superuser() -> Any:
    """Return a user who may do everything."""
    return get_user_model()._default_manager.get_or_create(username="root", is_superuser=True)[0]


def let_hours_pass(hours: float = 2) -> None:
    """Let all clones be as old, and unused for as long."""
    ago = Now() - timedelta(hours=hours)
    CodeRepository.objects.update(cloned_at=ago, last_used_at=ago)


def fill_disk(settings: Settings) -> None:
    """Lower the budget below what any clone takes."""
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_MAX_GB": 1e-7}


def empty_disk(settings: Settings) -> None:
    """Lift the budget."""
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_MAX_GB": None}


def disk_round(machines: TwoMachines, name: str) -> str:
    """Let a machine look after its disk."""
    with machines.on(name) as node:
        return services.worker.run_disk_round(node)


def purge(machines: TwoMachines, name: str) -> None:
    """Let a machine remove what is to go."""
    with machines.on(name) as node:
        purging.purge(node)
        cleaning.finish_cleaning()


def used_bytes(machines: TwoMachines, name: str) -> int:
    """Return what a machine counts as used after a round on its disk."""
    disk_round(machines, name)
    with machines.on(name) as node:
        return node.disk_used_bytes


def drop(machines: TwoMachines, settings: Settings, repository: CodeRepository) -> None:
    """Have the copy on machine a leave its disk."""
    let_hours_pass()
    fill_disk(settings)
    assert disk_round(machines, "a") == "0 expired, 1 evicted, 0 woken"
    purge(machines, "a")
    empty_disk(settings)
    repository.refresh_from_db()
    assert repository.is_stored_only


def on_disk(machines: TwoMachines, name: str) -> list[Path]:
    """Return the versions on the disk of a machine."""
    return [*machines.root(name).glob("*/*/versions/*")]


def test_stored_copy_leaves_a_full_disk(machines: TwoMachines, repository: CodeRepository, settings: Settings) -> None:
    """Without any rule; the repository stays as it is, and so does what is stored of it."""
    stored = machines.stored_names()
    size_bytes = used_bytes(machines, "a")
    let_hours_pass()
    fill_disk(settings)

    assert disk_round(machines, "a") == "0 expired, 1 evicted, 0 woken"
    assert disk_round(machines, "a") == "0 expired, 0 evicted, 0 woken"
    assert used_bytes(machines, "a") == size_bytes > 0  # until it is gone
    purge(machines, "a")
    assert used_bytes(machines, "a") == 0
    assert not on_disk(machines, "a")

    repository.refresh_from_db()
    assert (repository.clone_status, repository.sandbox_path) == (CloneStatus.COMPLETED, None)
    assert (repository.node, repository.version) == ("", "")
    assert machines.stored_names() == stored
    assert not AuditEntry.objects.filter(event=AuditEvent.CLEANED).exists()
    message = services.status_of(repository).progress_message
    assert message == "Repository successfully cloned, and kept in storage alone; it is restored when it is read"


def test_job_that_waits_for_room_gets_it(
    machines: TwoMachines, repository: CodeRepository, server: GitServer, settings: Settings
) -> None:
    """Not before it is there; and what had to go for it comes back where there is room."""
    size_bytes = used_bytes(machines, "a")
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "MAX_REPO_SIZE_MB": 1,
        "SANDBOX_MAX_GB": (10**6 + size_bytes / 2) / 10**9,
    }
    let_hours_pass()
    other = connected(server, ref="light")
    job = newest_job(other)
    assert machines.work("a", job) == "waiting_for_disk"

    assert disk_round(machines, "a") == "0 expired, 1 evicted, 0 woken"
    assert disk_round(machines, "a") == "0 expired, 0 evicted, 0 woken"
    purge(machines, "a")
    assert disk_round(machines, "a") == "0 expired, 0 evicted, 1 woken"
    with machines.on("a"):
        assert services.worker.run_clone(job_id=job.pk) == "succeeded"

    with pytest.raises(NotOnDisk):
        services.open_clone(repository)
    assert machines.work("b", newest_job(repository)) == "succeeded"


def test_reader_brings_it_back(
    machines: TwoMachines, repository: CodeRepository, settings: Settings, tmp_path: Path
) -> None:
    """On whichever machine takes the job, without the Git host and its token; whoever waited gets time to read it."""
    before = vars(repository).copy()
    size_bytes = used_bytes(machines, "a")
    drop(machines, settings, repository)
    opened = AuditEntry.objects.filter(event=AuditEvent.TOKEN_OPENED).count()
    (tmp_path / "served").rename(tmp_path / "gone")
    for _ in range(2):
        with pytest.raises(NotOnDisk) as caught:
            services.open_clone(repository)
        assert (caught.value.code, caught.value.fields) == ("not_on_disk", {"retry_after_seconds": 5})
    job = newest_job(repository)
    assert (Job.objects.count(), job.kind, job.flow) == (2, JobKind.RESTORE, str(repository.project_id))
    assert "alone, to be restored. Waiting" in services.status_of(repository).progress_message
    let_hours_pass()  # in the queue
    assert machines.work("b", job) == "succeeded", Job.objects.get(pk=job.pk).error_message

    with machines.on("b"):
        assert (services.open_clone(repository) / "run").read_text() == "#!/bin/sh\n"
    repository.refresh_from_db()
    kept = ("commit_id", "ref_name", "substitutions", "stored_pack", "repository_size_mb")
    assert {name: getattr(repository, name) for name in kept} == {name: before[name] for name in kept}
    assert services.status_of(repository).progress_message == "Repository successfully cloned"
    assert AuditEntry.objects.filter(event=AuditEvent.TOKEN_OPENED).count() == opened
    assert (used_bytes(machines, "a"), used_bytes(machines, "b")) == (0, size_bytes)
    fill_disk(settings)
    assert disk_round(machines, "b") == "0 expired, 0 evicted, 0 woken"
    let_hours_pass()
    assert disk_round(machines, "b") == "0 expired, 1 evicted, 0 woken"


def test_reader_elsewhere_is_told_where_the_clone_is(machines: TwoMachines, repository: CodeRepository) -> None:
    """It is not restored a second time; what lies at the same path on another machine is not taken for it."""
    with machines.on("container-of-a"):  # it sees the disk of a, as this process does
        assert services.open_clone(repository).is_dir()
    CodeRepository.objects.update(version="another")
    with machines.on("b"), pytest.raises(NotOnDisk):
        services.open_clone(repository)
    CodeRepository.objects.update(version=repository.version)

    machines.root("a").rename(machines.root("a").with_name("away"))
    with machines.on("b"), pytest.raises(NotOnDisk, match="machine a") as caught:
        services.open_clone(repository)
    assert caught.value.fields == {"node": "a"}
    assert Job.objects.count() == 1


def test_reader_may_wait(machines: TwoMachines, repository: CodeRepository, settings: Settings) -> None:
    """For the restore that it asked for, no longer than it said, and not inside of a transaction."""
    drop(machines, settings, repository)
    with transaction.atomic(), pytest.raises(RuntimeError, match="waits for a worker"):
        services.open_clone(repository, wait_seconds=1)
    with pytest.raises(NotOnDisk):
        services.open_clone(repository, wait_seconds=0.01)

    def work() -> None:
        try:
            services.worker.run_clone(job_id=newest_job(repository).pk)
        finally:
            connections.close_all()

    with machines.on("a"):
        worker = threading.Thread(target=work)
        worker.start()
        try:
            assert (services.open_clone(repository, wait_seconds=60) / "run").exists()
        finally:
            worker.join()


def at_once(*deeds: Callable[[], object]) -> list[object]:
    """Do all of these in threads of their own that begin together, and return what each returns or raises."""
    barrier = threading.Barrier(len(deeds))

    def do(deed: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return deed()
        except Exception as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(deeds)) as pool:
        return list(pool.map(do, deeds))


def test_many_readers_have_it_restored_once(
    machines: TwoMachines, repository: CodeRepository, settings: Settings
) -> None:
    """Each is told to wait, whoever was first."""
    drop(machines, settings, repository)
    told = at_once(*[lambda: services.open_clone(repository)] * 6)
    assert {type(one) for one in told} == {NotOnDisk}
    assert Job.objects.filter(kind=JobKind.RESTORE).count() == 1


def test_reader_and_eviction_at_once(
    machines: TwoMachines, repository: CodeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever got a path keeps it: one of both wins, and the row says which."""
    values = CodeRepository.objects.values("sandbox_path", "version", "node").get()
    for _ in range(8):
        CodeRepository.objects.update(**values)
        Job.objects.filter(kind=JobKind.RESTORE).delete()
        let_hours_pass()
        monkeypatch.setattr(reading, "_recorded", reading._Recorded())
        path, has_left = at_once(lambda: services.open_clone(repository), lambda: retaining._leave_disk(repository.pk))
        assert _fresh(repository).is_stored_only is has_left is isinstance(path, NotOnDisk), (path, has_left)


def test_waiting_ends_with_the_job(machines: TwoMachines, repository: CodeRepository, settings: Settings) -> None:
    """Where nothing makes a clone, nobody waits for it."""
    drop(machines, settings, repository)
    with pytest.raises(NotOnDisk):
        services.open_clone(repository)
    services.cancel_repository(user=superuser(), repository=repository)
    assert CodeRepository.objects.get().is_stored_only
    CodeRepository.objects.update(clone_status=CloneStatus.FAILED)
    with pytest.raises(InvalidState):
        services.open_clone(repository, wait_seconds=60)


def test_recall_inside_a_transaction_waits_for_its_commit(
    machines: TwoMachines, repository: CodeRepository, settings: Settings
) -> None:
    """One that is rolled back asks for nothing."""
    drop(machines, settings, repository)
    with transaction.atomic(), pytest.raises(NotOnDisk):
        services.open_clone(repository)
    assert newest_job(repository).kind == JobKind.RESTORE
    assert Flow.objects.get(pk=newest_job(repository).flow).active


def test_unstored_clone_goes_by_the_rules_alone(
    machines: TwoMachines, server: GitServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk is its only home; where a rule lets it go, it is cleaned as ever."""
    repository = connected(server)
    machines.work("a", newest_job(repository))
    machines.packs.rename(machines.packs.with_name("away"))
    machines.store("a")
    let_hours_pass()
    fill_disk(settings)
    assert disk_round(machines, "a") == "0 expired, 0 evicted, 0 woken"
    settings.CODEREPOS = {**settings.CODEREPOS, "RETENTION": f"{__name__}.rules"}
    assert disk_round(machines, "a") == "0 expired, 0 evicted, 0 woken"
    assert len(on_disk(machines, "a")) == 1

    monkeypatch.setattr(f"{__name__}.RULES", Retention(evictable=True))
    assert disk_round(machines, "a") == "0 expired, 1 evicted, 0 woken"
    repository.refresh_from_db()
    assert (repository.clone_status, repository.error_code) == (CloneStatus.CLEANING, "evicted")


def test_stored_copies_go_before_unstored_clones(
    machines: TwoMachines, repository: CodeRepository, server: GitServer, settings: Settings, monkeypatch: Any
) -> None:
    """Though a rule lets those go, and they were used longer ago."""
    other = connected(server, ref="light")
    machines.work("a", newest_job(other))
    let_hours_pass()
    CodeRepository.objects.filter(pk=other.pk).update(last_used_at=Now() - timedelta(hours=9))
    monkeypatch.setattr(f"{__name__}.RULES", Retention(evictable=True))
    settings.CODEREPOS = {**settings.CODEREPOS, "RETENTION": f"{__name__}.rules"}
    size_mb = Decimal(repository.repository_size_mb or 0)
    settings.CODEREPOS["SANDBOX_MAX_GB"] = float(size_mb) * 1.5 / 1000

    assert disk_round(machines, "a") == "0 expired, 1 evicted, 0 woken"
    assert [one.is_stored_only for one in (_fresh(repository), _fresh(other))] == [True, False]


def _fresh(repository: CodeRepository) -> CodeRepository:
    return CodeRepository.objects.get(pk=repository.pk)


@pytest.mark.parametrize("event", ["opened", "queued", "unstored", "cleaned", "deleted", "evicted"])
def test_what_changed_meanwhile_stays(machines: TwoMachines, repository: CodeRepository, event: str) -> None:
    """Between the look at a copy and its removal, somebody else was quicker."""
    let_hours_pass()
    if event == "opened":
        services.open_clone(repository)
    elif event == "queued":
        Job.objects.create(repository=repository, kind=JobKind.UPDATE)
    elif event == "unstored":
        StoredPack.objects.update(state=PackState.LEAVING)
    elif event == "cleaned":
        CodeRepository.objects.update(clone_status=CloneStatus.CLEANING)
    elif event == "deleted":
        CodeRepository.objects.get().delete()
    else:
        assert retaining._leave_disk(repository.pk)
    before = list(CodeRepository.objects.values_list("clone_status", "version", "node"))
    purges = list(Purge.objects.values_list("request_id"))

    assert not retaining._leave_disk(repository.pk)
    assert list(CodeRepository.objects.values_list("clone_status", "version", "node")) == before
    assert list(Purge.objects.values_list("request_id")) == purges


def test_damaged_storage_leads_back_to_the_git_host(
    machines: TwoMachines, repository: CodeRepository, settings: Settings
) -> None:
    """Nothing is left of the version then, and the status says so until it is cloned again."""
    drop(machines, settings, repository)
    (name,) = [name for name in machines.stored_names() if name.endswith(".pack")]
    (machines.packs / name).write_bytes(b"PACK")
    with pytest.raises(NotOnDisk):
        services.open_clone(repository)
    job = newest_job(repository)

    assert machines.work("b", job) == "retry_scheduled"
    repository.refresh_from_db()
    assert (repository.clone_status, repository.stored_pack) == (CloneStatus.PENDING, None)
    assert repository.error_code == "store_damaged"
    with pytest.raises(InvalidState):
        services.open_clone(repository)
    assert machines.work("b", job) == "succeeded"
    assert machines.store("b") == "1 stored, 0 removed"
    with machines.on("b"):
        assert services.open_clone(repository).is_dir()


def test_failed_restore_loses_nothing(machines: TwoMachines, repository: CodeRepository, settings: Settings) -> None:
    """It stays COMPLETED and stored, says what failed, and is tried again for one who asks a minute later."""
    drop(machines, settings, repository)
    with pytest.raises(NotOnDisk):
        services.open_clone(repository)
    job = newest_job(repository)
    away = machines.packs.rename(machines.packs.with_name("away"))
    outcomes = [machines.work("b", job) for _ in range(job.max_attempts)]
    assert outcomes == ["retry_scheduled"] * 3 + ["failed"]
    away.rename(machines.packs)

    repository.refresh_from_db()
    assert repository.is_stored_only
    message = services.status_of(repository).progress_message
    assert "the last restore failed. The storage for packs does not answer" in message
    with pytest.raises(NotOnDisk):
        services.open_clone(repository)
    assert newest_job(repository).pk == job.pk
    Job.objects.update(finished_at=Now() - timedelta(seconds=recalling.AGAIN_SECONDS + 1))
    with pytest.raises(NotOnDisk):
        services.open_clone(repository)
    assert machines.work("b", newest_job(repository)) == "succeeded"
    assert _fresh(repository).node == "b"


@pytest.mark.parametrize("how", ["clean", "disconnect", "expire"])
def test_what_is_stored_only_can_be_removed(
    machines: TwoMachines, repository: CodeRepository, settings: Settings, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rules and its users find it, although no machine has it."""
    drop(machines, settings, repository)
    user = superuser()
    if how == "clean":
        services.clean_repository(user=user, repository=repository)
    elif how == "disconnect":
        services.disconnect_repository(user=user, repository=repository)
    else:
        monkeypatch.setattr(f"{__name__}.RULES", Retention(unused_days=0.05))
        settings.CODEREPOS = {**settings.CODEREPOS, "RETENTION": f"{__name__}.rules"}
        with machines.on("b") as node:
            services.worker.run_disk_round(node)
    purge(machines, "a")
    machines.store("a")

    assert machines.stored_names() == []
    assert {one.clone_status for one in CodeRepository.objects.all()} <= {CloneStatus.CLEANED}


def test_update_of_what_is_stored_only(machines: TwoMachines, repository: CodeRepository, settings: Settings) -> None:
    """It asks the Git host, as ever; a failed one leaves what is stored, and its successor takes its place."""
    drop(machines, settings, repository)
    user = superuser()
    job = services.clone_repository(user=user, repository=repository)
    assert "kept in storage alone, to be cloned again" in services.status_of(repository).progress_message
    services.cancel_repository(user=user, repository=repository)
    assert _fresh(repository).is_stored_only
    job = services.clone_repository(user=user, repository=repository)
    assert machines.work("b", job) == "succeeded"
    machines.store("b")
    assert _fresh(repository).stored_pack not in (None, repository.stored_pack)
    assert not [name for name in machines.stored_names() if str(repository.stored_pack) in name]


def test_lost_machine_costs_nothing_that_is_stored_only(
    machines: TwoMachines, repository: CodeRepository, settings: Settings
) -> None:
    """Nor does it keep a machine from being drained."""
    drop(machines, settings, repository)
    machines.lose("a")
    assert machines.relocate("b") == 0
    machines.store("b")
    with machines.on("b"):
        assert services.worker.sweep().startswith("0 removed, 0 missing")
    assert _fresh(repository).is_stored_only


def test_copy_that_moved_counts_where_it_was_until_it_is_removed(
    machines: TwoMachines, repository: CodeRepository
) -> None:
    """The budget of neither machine is passed meanwhile."""
    size_bytes = used_bytes(machines, "a")
    machines.work("b", Job.objects.create(repository=repository, kind=JobKind.UPDATE))
    assert (used_bytes(machines, "a"), used_bytes(machines, "b")) == (size_bytes, size_bytes)
    purge(machines, "a")
    assert (used_bytes(machines, "a"), used_bytes(machines, "b")) == (0, size_bytes)


def test_relocated_clone_is_recalled_in_the_turn_of_its_project(
    machines: TwoMachines, repository: CodeRepository, settings: Settings
) -> None:
    """Not behind thousands of a lost machine, nor in another flow than its host gave it."""
    Job.objects.update(flow="gold")
    Job.objects.create(
        repository=repository, kind=JobKind.RESTORE, state=JobState.SUCCEEDED, flow=LIMITS.flow, created_at=Now()
    )
    Flow.objects.create(key="gold", weight=7)
    drop(machines, settings, repository)
    with pytest.raises(NotOnDisk):
        services.open_clone(repository)
    assert newest_job(repository).flow == "gold"
    assert Flow.objects.get(pk="gold").weight == 7
