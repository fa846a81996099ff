"""What is stored, what leaves, and what becomes of it when a process is killed or the storage hangs."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.models import F
from django.db.models.functions import Now
from model_bakery import baker
from pytest_django import Settings

from coderepos import services
from coderepos.checks import check_storage
from coderepos.crypto.secret import Secret
from coderepos.exceptions import Cancelled, StorageUnavailable
from coderepos.models import (
    CloneStatus,
    CodeRepository,
    Job,
    JobKind,
    LeaseLost,
    Node,
    PackState,
    Purge,
    StoredPack,
    get_project_model,
)
from coderepos.services import uninstalling
from coderepos.services.disk import this_machine
from coderepos.services.health.storage import storage_findings
from coderepos.services.packs import relocating, storing
from coderepos.services.packs import storage as pack_storage
from coderepos.services.packs.storage import PackStorage
from coderepos.storage import MARKER, DirectoryStorage
from tests.support.cluster import wait_until
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer
from tests.support.two_machines import TwoMachines, newest_job

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    """A Git server of one repository."""
    repository = make_repository(tmp_path / "served/repository")
    (repository / "random").write_bytes(os.urandom(100_000))
    git("add", "random", cwd=repository)
    git("commit", "--quiet", "-m", "random", cwd=repository)
    with GitServer(tmp_path / "served") as started:
        yield started


@pytest.fixture
def machines(settings: Settings, tmp_path: Path, server: GitServer) -> TwoMachines:
    """Two machines with a shared directory."""
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
    }
    return TwoMachines(settings, tmp_path)


@pytest.fixture
def repository(server: GitServer, machines: TwoMachines) -> CodeRepository:
    """A repository that was cloned on machine a, and is not stored yet."""
    repository = baker.make(
        CodeRepository,
        project=baker.make(get_project_model()),
        git_url=server.url("repository"),
        token_ciphertext=Secret(""),
    )
    job = Job.objects.create(repository=repository, max_attempts=4)
    assert machines.work("a", job) == "succeeded"
    repository.refresh_from_db()
    return repository


def let_time_pass() -> None:
    """Let an hour pass, after which no upload of what leaves can be on its way."""
    hours = timedelta(hours=2)
    StoredPack.objects.update(due_at=Now() - hours, left_at=F("left_at") - hours)


def test_stored_files_are_named_by_the_database(machines: TwoMachines, repository: CodeRepository) -> None:
    """Each name has the digest of its bytes and the id of the row, so that none is used twice."""
    assert machines.store("a") == "1 stored, 0 removed"
    stored = StoredPack.objects.get()
    assert (stored.state, stored.pk) == (PackState.STORED, CodeRepository.objects.get().stored_pack)
    assert machines.stored_names() == sorted(
        [
            f"{repository.pk}/{stored.pack_sha256}-{stored.pk}.pack",
            f"{repository.pk}/{stored.index_sha256}-{stored.pk}.idx",
            f"{repository.pk}/v/{repository.version}-{stored.pk}.json",
        ]
    )
    assert machines.store("a") == "0 stored, 0 removed"
    assert machines.store("b") == "0 stored, 0 removed"


def test_next_version_takes_the_place_of_the_last(
    machines: TwoMachines, repository: CodeRepository, tmp_path: Path
) -> None:
    """What was stored stays until its successor is stored, and goes then."""
    machines.store("a")
    before = machines.stored_names()
    (tmp_path / "served/repository/file.txt").write_text("new")
    git("commit", "--quiet", "-am", "new", cwd=tmp_path / "served/repository")
    assert machines.work("a", Job.objects.create(repository=repository, kind=JobKind.UPDATE)) == "succeeded"
    assert CodeRepository.objects.get().stored_pack is None
    assert machines.stored_names() == before

    assert machines.store("a") == "1 stored, 0 removed"
    assert len(machines.stored_names()) == 3
    assert not {*before} & {*machines.stored_names()}
    let_time_pass()
    assert machines.store("b") == "0 stored, 1 removed"
    assert len(machines.stored_names()) == 3
    assert StoredPack.objects.count() == 1


@pytest.mark.parametrize("how", ["row", "project", "raw"])
def test_no_byte_of_a_deleted_repository_stays(machines: TwoMachines, repository: CodeRepository, how: str) -> None:
    """It goes at once, and again an hour later, when no upload that had not noticed can be on its way any longer."""
    machines.store("a")
    prefix = machines.packs / str(repository.pk)
    if how == "raw":
        Job.objects.all().delete()
        rows = CodeRepository.objects.all()
        rows._raw_delete(rows.db)
        Node.objects.update(released_at=None)
    else:
        (repository if how == "row" else repository.project).delete()
    assert machines.store("b") == "0 stored, 0 removed"
    assert machines.stored_names() == []

    prefix.mkdir()
    (prefix / "late.pack").touch()
    assert machines.store("b") == "0 stored, 0 removed"
    let_time_pass()
    assert machines.store("b") == "0 stored, 1 removed"
    assert machines.stored_names() == []
    assert not StoredPack.objects.exists()


def test_deletion_waits_for_a_storage_that_is_away(machines: TwoMachines, repository: CodeRepository) -> None:
    """The row stays until the bytes are gone, however long that takes."""
    machines.store("a")
    repository.delete()
    away = machines.packs.rename(machines.packs.with_name("away"))
    let_time_pass()
    assert machines.store("b") == "0 stored, 0 removed"
    assert StoredPack.objects.get().error == "storage_unavailable"
    away.rename(machines.packs)
    let_time_pass()
    assert machines.store("b") == "0 stored, 1 removed"
    assert machines.stored_names() == []


def test_cleaned_repository_is_not_stored(machines: TwoMachines, repository: CodeRepository) -> None:
    """Whoever has a clone removed wants its bytes gone."""
    machines.store("a")
    CodeRepository.objects.update(clone_status=CloneStatus.CLEANED)
    Node.objects.update(released_at=None)
    machines.store("a")
    assert machines.stored_names() == []


def test_upload_killed_in_the_middle_is_done_again(
    machines: TwoMachines, repository: CodeRepository, child_environment: dict[str, str]
) -> None:
    """Under the same names, by any process of the machine, and nothing is left of the first one."""
    held = machines.hold()
    process = machines.program("a", child_environment, "store")
    try:
        wait_until(held.with_name("held.reached").exists, seconds=30, what="the upload")
    finally:
        process.kill()
        process.wait()
    assert any(".draft-" in name for name in machines.stored_names())
    assert CodeRepository.objects.get().stored_pack is None

    held.unlink()
    assert machines.store("a") == "0 stored, 0 removed"
    let_time_pass()
    assert machines.store("a") == "1 stored, 0 removed"
    assert len(machines.stored_names()) == 3
    assert not any(".draft-" in name for name in machines.stored_names())


def test_process_that_wakes_after_another_stored_it_harms_nothing(
    machines: TwoMachines, repository: CodeRepository
) -> None:
    """It finds the row no longer its own, and leaves the files that have the same names."""
    with machines.on("a") as node:
        StoredPack.objects.intend([node.name], at_most=1)
        frozen = StoredPack.objects.take(PackState.UPLOADING, [node.name])
    assert frozen is not None
    assert machines.store("a") == "0 stored, 0 removed"
    let_time_pass()
    assert machines.store("a") == "1 stored, 0 removed"
    before = machines.stored_names()

    storage = pack_storage.pack_storage()
    assert storage is not None
    with machines.on("a"), pytest.raises(LeaseLost):
        storing.store(storage, frozen)
    assert machines.stored_names() == before
    machines.lose("a")
    assert machines.relocate("b") == 1
    assert machines.work("b", Job.objects.latest("created_at")) == "succeeded"


def test_process_that_wakes_in_the_middle_harms_nothing(
    machines: TwoMachines, repository: CodeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither before its first byte nor after its last, when another one has stored everything."""
    put = PackStorage.put
    slept: list[str] = []

    def late(self: PackStorage, name: str, *arguments: Any, **values: Any) -> None:
        if not slept:
            slept.append(name)
            let_time_pass()
            assert machines.store("a") == "1 stored, 0 removed"
        put(self, name, *arguments, **values)

    monkeypatch.setattr(PackStorage, "put", late)
    assert machines.store("a") == "0 stored, 0 removed"
    assert len(machines.stored_names()) == 3
    assert StoredPack.objects.get().state == PackState.STORED


def test_disk_that_gives_other_bytes_the_second_time_leaves_no_garbage(
    machines: TwoMachines, repository: CodeRepository
) -> None:
    """What was written first is removed by its own row, and stored anew under another."""
    held = machines.packs / str(repository.pk)
    held.touch()  # a file where the directory should be: nothing can be written
    assert machines.store("a") == "0 stored, 0 removed"
    held.unlink()
    (pack,) = machines.root("a").glob("*/*/versions/*/git/objects/pack/*.pack")
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes() + b"rotten")
    let_time_pass()
    machines.store("a")
    let_time_pass()
    assert machines.store("a") == "1 stored, 1 removed"
    assert len(machines.stored_names()) == 3


def test_lost_machine_of_many_floods_nobody(machines: TwoMachines, repository: CodeRepository) -> None:
    """A few jobs at a time, each once, whoever looks."""
    rows = [
        CodeRepository(
            project=repository.project,
            git_url=f"https://example.org/{number}",
            clone_status=CloneStatus.COMPLETED,
            node="a",
            version=f"v{number}",
            token_ciphertext=Secret(""),
        )
        for number in range(30)
    ]
    CodeRepository.objects.bulk_create(rows)
    machines.lose("a")
    looking = []
    for name in ("b", "c"):
        with machines.on(name) as node:
            this_machine.prepare_root(node)
            looking.append(node)
    with ThreadPoolExecutor(2) as pool:
        assert 1 <= sum(pool.map(_relocate, looking)) <= 2 * relocating.AT_ONCE
    for node in looking:
        relocating.relocate(node)
    jobs = Job.objects.unfinished()
    assert relocating.AT_ONCE <= jobs.count() < 2 * relocating.AT_ONCE + 1
    assert {job.flow for job in jobs} == {relocating.LIMITS.flow}
    assert CodeRepository.objects.filter(clone_status=CloneStatus.PENDING).count() == jobs.count()


def _relocate(node: Node) -> int:
    try:
        return relocating.relocate(node)
    finally:
        connections.close_all()


def test_restore_killed_in_the_middle_is_done_again(
    machines: TwoMachines, repository: CodeRepository, child_environment: dict[str, str]
) -> None:
    """The next worker finds nothing of it in its way, and nothing stays on the disk."""
    machines.store("a")
    machines.lose("a")
    assert machines.relocate("b") == 1
    job = Job.objects.filter(kind=JobKind.RESTORE).get()
    held = machines.hold()
    process = machines.program("b", child_environment, "run", str(job.pk))
    try:
        wait_until(held.with_name("held.reached").exists, seconds=30, what="the restore")
    finally:
        process.kill()
        process.wait()
    held.unlink()
    Job.objects.filter(pk=job.pk).update(lease_until=Now() - timedelta(seconds=1))
    services.worker.reap()
    assert machines.work("b", job) == "succeeded"
    assert [path.name for path in machines.root("b").rglob("versions/*")] == [CodeRepository.objects.get().version]
    assert not list(machines.root("b").rglob(".incoming-*"))


def test_storage_that_hangs_stops_nothing(
    machines: TwoMachines, repository: CodeRepository, server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls are given up, some threads are left behind and no more, clones go on, and it is stored in the end."""
    monkeypatch.setattr(pack_storage, "CALL_SECONDS", 0.2)
    held = machines.hold()
    try:
        for _ in range(pack_storage.MOST_HANGING + 2):
            StoredPack.objects.update(due_at=Now())
            assert machines.store("a") == "0 stored, 0 removed"
        hanging = [thread for thread in pack_storage._hanging if thread.is_alive()]
        assert len(hanging) == pack_storage.MOST_HANGING
        stored = StoredPack.objects.get()
        assert (stored.state, stored.error, stored.tries) == (PackState.UPLOADING, "storage_unavailable", 6)
        assert machines.work("a", Job.objects.create(repository=repository, kind=JobKind.UPDATE)) == "succeeded"
    finally:
        held.unlink()
    for thread in hanging:
        thread.join(10)
    monkeypatch.undo()
    StoredPack.objects.update(due_at=Now())
    assert machines.store("a") == "1 stored, 0 removed"


def test_uninstalling_empties_the_storage(machines: TwoMachines, repository: CodeRepository) -> None:
    """Or fails while rows still name what is there."""
    machines.store("a")
    away = machines.packs.rename(machines.packs.with_name("away"))
    with pytest.raises(StorageUnavailable):
        uninstalling.remove_stored_packs()
    away.rename(machines.packs)
    assert uninstalling.remove_stored_packs() == 1
    assert machines.stored_names() == []


def drain(*arguments: str) -> str:
    """Run the command, and return what it prints."""
    out = StringIO()
    call_command("coderepos_drain", *arguments, stdout=out)
    return out.getvalue()


def test_drained_machine_claims_nothing_and_loses_nothing(machines: TwoMachines, repository: CodeRepository) -> None:
    """It can be switched off once what only it has is stored."""
    with pytest.raises(CommandError, match="can't be switched off yet"):
        drain("a")
    assert "can be switched off" in drain("a", "--lose")
    job = Job.objects.create(repository=repository, kind=JobKind.UPDATE)
    assert machines.work("a", job) == "unclaimed"
    assert machines.store("a") == "1 stored, 0 removed"
    assert "0 have no other home" in drain("a", "--wait")
    assert machines.work("b", job) == "succeeded"

    drain("a", "--resume")
    assert machines.work("a", Job.objects.create(repository=repository, kind=JobKind.UPDATE)) == "succeeded"
    with pytest.raises(CommandError, match="no machine 'c'"):
        drain("c")


def test_machine_that_never_comes_back_is_given_up(machines: TwoMachines, repository: CodeRepository) -> None:
    """What is stored is restored elsewhere, what is not is missing and may be cloned again, and nobody waits for it."""
    machines.store("a")
    alone = baker.make(
        CodeRepository,
        project=repository.project,
        git_url="https://h/alone",
        url_key="https://h/alone",
        token_ciphertext=Secret(""),
        clone_status=CloneStatus.COMPLETED,
        version="v",
        node="a",
    )
    cleaning = baker.make(
        CodeRepository,
        project=repository.project,
        git_url="https://h/cleaning",
        url_key="https://h/cleaning",
        token_ciphertext=Secret(""),
        clone_status=CloneStatus.CLEANING,
    )
    Purge.objects.request(cleaning.pk, project_key="p", nodes=["a"])
    with pytest.raises(CommandError, match="is at work"):
        drain("a", "--gone")
    Node.objects.filter(name="a").update(last_seen=Now() - timedelta(minutes=2))
    busy = Job.objects.create(repository=alone, kind=JobKind.UPDATE)
    with pytest.raises(CommandError, match="1 of the clones of a are being replaced"):
        drain("a", "--gone")
    busy.cancel(Cancelled())

    assert "a is given up" in drain("a", "--gone")

    assert not Node.objects.filter(name="a").exists()
    with machines.on("b") as node:
        this_machine.prepare_root(node)
        node.refresh_from_db()
        assert relocating.relocate(node) == 1
        services.worker.maintain()
    assert machines.work("b", newest_job(repository)) == "succeeded"
    for row in (alone, cleaning):
        row.refresh_from_db()
    assert (alone.clone_status, alone.error_code) == (CloneStatus.FAILED, "sandbox_missing")
    assert cleaning.clone_status == CloneStatus.CLEANED


@pytest.mark.django_db
def test_drain_waits_for_what_is_to_be_removed() -> None:
    """No other machine can remove it, and a repository that is cleaned would be so for ever."""
    Node.objects.create(name="a")
    Purge.objects.request(uuid.uuid4(), project_key="p", nodes=["a"])

    with pytest.raises(CommandError, match="can't be switched off yet"):
        drain("a")
    Purge.objects.all().delete()

    assert "can be switched off" in drain("a")


def test_drain_waits_for_what_runs_and_is_not_stored(machines: TwoMachines, repository: CodeRepository) -> None:
    """With a bound, it says what it still waits for."""
    machines.store("a")
    job = Job.objects.create(repository=repository, kind=JobKind.UPDATE)
    assert Job.objects.claim(job.pk, node="a")
    with pytest.raises(CommandError, match="yet"):
        drain("a", "--lose", "--wait", "--for", "0.1")
    assert job.cancel(Cancelled())
    assert "0 run" in drain("a", "--wait")


def test_health_tells_what_is_not_stored(machines: TwoMachines, repository: CodeRepository, settings: Settings) -> None:
    """And whether the storage answers; without one there is nothing to tell."""
    assert [(one.level, one.values.get("unstored")) for one in storage_findings()] == [("ok", 1), ("ok", None)]
    machines.packs.rename(machines.packs.with_name("away"))
    machines.store("a")
    StoredPack.objects.update(created_at=Now() - timedelta(hours=1))
    assert [one.level for one in storage_findings()] == ["warning", "warning"]
    settings.CODEREPOS = {**settings.CODEREPOS, "PACK_STORAGE": "nowhere"}
    assert [one.level for one in storage_findings()][1] == "failing"
    settings.CODEREPOS = {**settings.CODEREPOS, "PACK_STORAGE": None}
    assert [one.level for one in storage_findings()] == ["ok"]


@pytest.mark.parametrize(
    ("storage", "found"),
    [
        ({"BACKEND": "coderepos.storage.DirectoryStorage", "OPTIONS": {"location": "/packs"}}, []),
        ({"BACKEND": "django.core.files.storage.FileSystemStorage"}, ["coderepos.E054"]),
        ({"BACKEND": "coderepos.storage.Missing"}, ["coderepos.E053"]),
        (None, ["coderepos.E053"]),
    ],
)
def test_storage_is_checked(settings: Settings, storage: dict[str, Any] | None, found: list[str]) -> None:
    """One that is not there, or that gives files other names, is found before anything is stored."""
    settings.STORAGES = {**settings.STORAGES, **({"packs": storage} if storage else {})}
    settings.CODEREPOS = {**settings.CODEREPOS, "PACK_STORAGE": "packs"}
    assert [message.id for message in check_storage()] == found


def test_files_of_a_shared_directory_are_whole_or_not_there(tmp_path: Path) -> None:
    """A name keeps its name, a failed write leaves what was there, and an unmounted directory is never written to."""
    storage = DirectoryStorage(tmp_path)
    with pytest.raises(OSError, match="not mounted"):
        storage.save("a/b", _content(b"1"))
    (tmp_path / MARKER).touch()
    assert storage.save("a/b", _content(b"1")) == "a/b"
    assert storage.save("a/b", _content(b"22")) == "a/b"
    with pytest.raises(ZeroDivisionError):
        storage.save("a/b", _content(b"333", fails=True))
    with storage.open("a/b") as file:
        assert file.read() == b"22"
    assert (storage.size("a/b"), storage.listdir("a"), storage.listdir("c")) == (2, ([], ["b"]), ([], []))
    storage.delete("a/b")
    storage.delete("a/b")
    assert not storage.exists("a")


def _content(data: bytes, *, fails: bool = False) -> Any:
    class Content:
        def chunks(self) -> Iterator[bytes]:
            yield data
            if fails:
                time.sleep(1 / 0)

    return Content()
