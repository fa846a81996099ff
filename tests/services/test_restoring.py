"""A published version is stored, and any machine restores it without its Git host; damaged bytes are not published."""

from __future__ import annotations

import filecmp
import hashlib
from datetime import timedelta
from pathlib import Path

import pytest
from django.db.models.functions import Now
from model_bakery import baker
from pytest_django import Settings

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.models import (
    AuditEntry,
    AuditEvent,
    CloneStatus,
    CodeRepository,
    Job,
    JobKind,
    JobState,
    Node,
    PackState,
    StoredPack,
)
from coderepos.services.disk import purging, this_machine
from coderepos.services.packs import relocating
from coderepos.services.packs import storage as pack_storage
from coderepos.services.packs.manifest import index_name, pack_name
from tests.support.cluster import wait_until
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer
from tests.support.two_machines import TwoMachines, connected, newest_job

pytestmark = pytest.mark.django_db(transaction=True)


def lost(machines: TwoMachines, repository: CodeRepository) -> Job:
    """Lose machine a, and return the job that machine b queues."""
    machines.lose("a")
    assert machines.relocate("b") == 1
    assert machines.relocate("b") == 0
    return newest_job(repository)


def same(one: Path, other: Path) -> bool:
    """Return whether two directories hold the same names and bytes."""
    found = filecmp.dircmp(one, other)
    _, differ, odd = filecmp.cmpfiles(one, other, found.common_files, shallow=False)
    if found.left_only or found.right_only or differ or odd or found.common_funny:
        return False
    return all(same(one / name, other / name) for name in found.common_dirs)


@pytest.mark.parametrize(
    ("ref", "depth"),
    [
        ("", None),
        ("v1", None),
        ("id", 1),
        *(pytest.param(ref, depth, marks=pytest.mark.slow) for ref, depth in (("light", 1), ("", 1), ("id", None))),
    ],
)
def test_version_is_restored_as_it_was(
    server: GitServer, machines: TwoMachines, ref: str, depth: int | None, tmp_path: Path
) -> None:
    """Tree and Git data are equal byte by byte; neither the Git host is asked nor the token opened."""
    ref = git("rev-parse", "HEAD~2", cwd=tmp_path / "served/repository") if ref == "id" else ref
    repository = connected(server, ref=ref, depth=depth)
    assert machines.work("a", newest_job(repository)) == "succeeded"
    assert machines.store("a") == "1 stored, 0 removed"
    repository.refresh_from_db()
    before = vars(repository).copy()

    job = lost(machines, repository)
    assert job.kind == JobKind.RESTORE
    status = services.status_of(repository)
    assert status.repository.clone_status == CloneStatus.PENDING
    assert "estor" in status.progress_message
    opened = AuditEntry.objects.filter(event=AuditEvent.TOKEN_OPENED).count()
    (tmp_path / "served").rename(tmp_path / "gone")
    assert machines.work("b", job) == "succeeded", Job.objects.get(pk=job.pk).error_message

    repository.refresh_from_db()
    assert was_by_index(repository)
    assert (repository.clone_status, repository.node) == (CloneStatus.COMPLETED, "b")
    assert AuditEntry.objects.filter(event=AuditEvent.TOKEN_OPENED).count() == opened
    kept = ("commit_id", "ref_name", "substitutions", "cloned_at", "stored_pack", "repository_size_mb")
    assert {name: getattr(repository, name) for name in kept} == {name: before[name] for name in kept}
    path = f"{repository.project_id}/{repository.pk}"
    assert same(machines.root("a") / path / "repository", machines.root("b") / path / "repository")
    assert same(machines.root("a") / path / "git", machines.root("b") / path / "git")
    git("--git-dir", str(machines.root("b") / path / "git"), "fsck", "--full", "--strict")
    # It can be lost again: what is stored stays.
    assert machines.store("b") == "0 stored, 0 removed"
    machines.lose("b")
    assert machines.relocate("a") == 1
    assert machines.work("a", newest_job(repository)) == "succeeded"


def was_by_index(repository: CodeRepository) -> bool:
    """Return whether the last job built by the stored index."""
    phases = newest_job(repository).result["seconds"].keys()
    assert len(phases & {"scan", "copy"}) == 1
    return "copy" in phases


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Cut the last byte off."""
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    """Add a byte."""
    path.write_bytes(path.read_bytes() + b"\0")


def remove(path: Path) -> None:
    """Remove the file."""
    path.unlink()


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        *((".pack", damage) for damage in (flip, cut, lengthen, remove)),
        (".json", flip),
        *(pytest.param(".json", damage, marks=pytest.mark.slow) for damage in (cut, lengthen, remove)),
    ],
)
def test_damaged_bytes_are_never_published(
    machines: TwoMachines, repository: CodeRepository, suffix: str, damage: object
) -> None:
    """They are quarantined, and the next attempt clones; what it publishes is stored anew, under other names."""
    assert callable(damage)
    (name,) = [name for name in machines.stored_names() if name.endswith(suffix)]
    damage(machines.packs / name)
    old = repository.stored_pack
    assert old is not None

    job = lost(machines, repository)
    assert machines.work("b", job) == "retry_scheduled"
    job.refresh_from_db()
    assert (job.kind, job.attempt, job.error_code) == (JobKind.CLONE, 0, "store_damaged")
    assert StoredPack.objects.get(pk=old).state == PackState.LEAVING
    assert CodeRepository.objects.get().stored_pack is None
    assert not list(machines.root("b").rglob("versions/*"))

    assert machines.work("b", job) == "succeeded"
    assert machines.store("b") == "1 stored, 0 removed"
    assert CodeRepository.objects.get().stored_pack not in (None, old)
    assert not [name for name in machines.stored_names() if str(old) in name]


def make_unreadable(path: Path) -> None:
    """Put something in its place that no storage can read."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [flip, cut, lengthen, remove, make_unreadable])
def test_without_its_index_all_is_built_anew(
    machines: TwoMachines, repository: CodeRepository, damage: object, tmp_path: Path
) -> None:
    """The pack is enough: the same is restored, more slowly, and what is stored stays."""
    assert callable(damage)
    (name,) = [name for name in machines.stored_names() if name.endswith(".idx")]
    damage(machines.packs / name)
    (tmp_path / "served").rename(tmp_path / "gone")

    assert machines.work("b", lost(machines, repository)) == "succeeded"
    assert not was_by_index(repository)
    path = f"{repository.project_id}/{repository.pk}"
    assert same(machines.root("a") / path / "repository", machines.root("b") / path / "repository")
    assert same(machines.root("a") / path / "git", machines.root("b") / path / "git")
    # What can't be read right now may be read the next time; what is damaged is stored anew.
    stored = StoredPack.objects.get()
    assert stored.state == PackState.STORED
    assert machines.store("b") == f"{int(damage is not make_unreadable)} stored, 0 removed"
    if damage is not make_unreadable:
        assert not [name for name in machines.stored_names() if str(stored.pk) in name]
        machines.lose("b")
        assert machines.relocate("a") == 1
        assert machines.work("a", newest_job(repository)) == "succeeded"
        assert was_by_index(repository)


@pytest.mark.parametrize("lie", ["a flipped bit", "of another pack", "no index"])
def test_index_that_was_stored_with_lies_is_not_believed(
    machines: TwoMachines, repository: CodeRepository, lie: str, tmp_path: Path
) -> None:
    """With the right SHA-256, since the disk lied before it was taken: nothing of a first try is left in the second."""
    stored = StoredPack.objects.get()
    index = machines.packs / index_name(stored)
    if lie == "a flipped bit":
        flip(index)
    elif lie == "of another pack":
        git("commit", "--quiet", "--allow-empty", "-m", "one more", cwd=tmp_path / "served/repository")
        git("repack", "-adq", cwd=tmp_path / "served/repository")
        (other,) = (tmp_path / "served/repository").rglob("*.idx")
        index.write_bytes(other.read_bytes())
    else:
        index.write_bytes(b"no index")
    content = index.read_bytes()
    StoredPack.objects.update(index_sha256=hashlib.sha256(content).hexdigest(), index_bytes=len(content))
    index.rename(machines.packs / index_name(StoredPack.objects.get()))

    assert machines.work("b", lost(machines, repository)) == "succeeded"
    assert not was_by_index(repository)
    path = f"{repository.project_id}/{repository.pk}"
    assert same(machines.root("a") / path / "git", machines.root("b") / path / "git")
    assert [path.name for path in machines.root("b").glob("*/*/*")].count(".incoming") == 0
    assert len([*machines.root("b").glob("*/*/versions/*")]) == 1


def test_pack_that_was_stored_with_lies_is_not_published(
    machines: TwoMachines, repository: CodeRepository, server: GitServer, tmp_path: Path
) -> None:
    """A sound pack and index of another repository, with their SHA-256 in the row: neither way makes anything of it."""
    make_repository(tmp_path / "served/other", commits=5)
    other = connected(server, name="other")
    assert machines.work("a", newest_job(other)) == "succeeded"
    assert machines.store("a") == "1 stored, 0 removed"
    mine, foreign = (StoredPack.objects.get(repository_id=one.pk) for one in (repository, other))
    for name_of in (pack_name, index_name):
        content = (machines.packs / name_of(foreign)).read_bytes()
        kind = "pack" if name_of is pack_name else "index"
        setattr(mine, f"{kind}_sha256", hashlib.sha256(content).hexdigest())
        setattr(mine, f"{kind}_bytes", len(content))
        (machines.packs / name_of(mine)).write_bytes(content)
    mine.save()

    machines.lose("a")
    assert machines.relocate("b") == 2
    outcomes = [machines.work("b", newest_job(one)) for one in (repository, other)]
    assert sorted(outcomes) == ["retry_scheduled", "succeeded"]
    assert newest_job(repository).error_code == "store_damaged"
    assert len([*machines.root("b").glob("*/*/versions/*")]) == 1
    assert not [*machines.root("b").glob("*/*/.incoming-*")]


def test_storage_that_hangs_in_the_middle_leaves_nothing(
    machines: TwoMachines, repository: CodeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt ends, says why, and the next one restores."""
    job = lost(machines, repository)
    monkeypatch.setattr(pack_storage, "CALL_SECONDS", 0.3)
    monkeypatch.setattr(pack_storage, "SLOWEST_BYTES_PER_SECOND", 10**9)
    held = machines.hold()
    try:
        assert machines.work("b", job) == "retry_scheduled"
        assert Job.objects.get(pk=job.pk).error_code == "storage_unavailable"
        assert not [*machines.root("b").glob("*/*/.incoming-*")]
    finally:
        held.unlink()
    for thread in pack_storage._hanging:
        thread.join(10)
    assert machines.work("b", job) == "succeeded"


def test_repository_that_is_deleted_meanwhile_leaves_nothing(
    machines: TwoMachines, repository: CodeRepository, child_environment: dict[str, str]
) -> None:
    """Neither on the disk of the machine that restored it, nor in the storage."""
    job = lost(machines, repository)
    held = machines.hold()
    process = machines.program("b", child_environment, "run", str(job.pk))
    try:
        wait_until(held.with_name("held.reached").exists, seconds=30, what="the restore")
        CodeRepository.objects.get().delete()
    finally:
        held.unlink()
        process.wait(60)
    with machines.on("b") as node:
        purging.purge(node)
    machines.store("b")
    assert not [*machines.root("b").glob("*/*")]
    assert machines.stored_names() == []
    assert not Job.objects.exists()


def test_pack_of_another_version_is_not_taken(
    machines: TwoMachines, repository: CodeRepository, server: GitServer, tmp_path: Path
) -> None:
    """A whole and sound pack that is not the one that was stored is damage as well."""
    make_repository(tmp_path / "served/other", commits=5)
    other = baker.make(
        CodeRepository, project=repository.project, git_url=server.url("other"), token_ciphertext=Secret("")
    )
    assert machines.work("a", Job.objects.create(repository=other)) == "succeeded"
    assert machines.store("a") == "1 stored, 0 removed"
    mine, foreign = (next(machines.packs.glob(f"{one}/*.pack")) for one in (repository.pk, other.pk))
    mine.write_bytes(foreign.read_bytes())

    machines.lose("a")
    assert machines.relocate("b") == 2
    outcomes = [machines.work("b", newest_job(one)) for one in (repository, other)]
    assert sorted(outcomes) == ["retry_scheduled", "succeeded"]
    assert newest_job(repository).error_code == "store_damaged"


def test_missing_sandbox_is_restored(machines: TwoMachines, repository: CodeRepository) -> None:
    """What somebody removed from the disk comes back by itself."""
    with machines.on("a"):
        services.worker.run_disk_round(services.worker.register_node())
        (sandbox,) = machines.root("a").glob("*/*")
        sandbox.rename(machines.root("a").parent / "moved")
        assert "1 missing" in services.worker.sweep()
    assert CodeRepository.objects.get().error_code == "sandbox_missing"
    assert machines.relocate("a") == 1
    assert newest_job(repository).kind == JobKind.RESTORE
    assert machines.work("a", newest_job(repository)) == "succeeded"
    assert CodeRepository.objects.get().clone_status == CloneStatus.COMPLETED


def test_limit_that_was_lowered_is_told_as_such(
    machines: TwoMachines, repository: CodeRepository, settings: Settings
) -> None:
    """What is stored is not damaged because it is too large by now."""
    CodeRepository.objects.update(repository_size_mb=200)
    (tree,) = machines.packs.glob("*/*.pack")
    settings.CODEREPOS = {**settings.CODEREPOS, "MAX_REPO_SIZE_MB": tree.stat().st_size / 10**6 / 2}
    job = lost(machines, repository)
    assert machines.work("b", job) == "failed"
    assert Job.objects.get(pk=job.pk).error_code == "repository_too_large"
    assert StoredPack.objects.get().state == PackState.STORED


def test_what_is_not_stored_is_cloned_again(machines: TwoMachines, server: GitServer) -> None:
    """A machine that is lost before it stored anything costs clones, a few at a time."""
    repository = connected(server)
    assert machines.work("a", newest_job(repository)) == "succeeded"
    job = lost(machines, repository)
    assert job.kind == JobKind.CLONE
    assert machines.work("b", job) == "succeeded"
    assert CodeRepository.objects.get().node == "b"


def test_nothing_is_taken_over_without_a_storage(
    machines: TwoMachines, repository: CodeRepository, settings: Settings
) -> None:
    """Whoever has one disk alone keeps what it holds until it is back."""
    settings.CODEREPOS = {**settings.CODEREPOS, "PACK_STORAGE": None}
    machines.lose("a")
    assert machines.relocate("b") == 0
    assert CodeRepository.objects.get().clone_status == CloneStatus.COMPLETED


def test_machine_that_was_never_seen_may_be_lost(machines: TwoMachines, repository: CodeRepository) -> None:
    """It cloned, and died before its first round of upkeep ended."""
    machines.store("a")
    Node.objects.filter(name="a").update(last_seen=None)
    with machines.on("b") as node:
        this_machine.prepare_root(node)
        node.refresh_from_db()
        assert relocating.relocate(node) == 0
        Node.objects.filter(name="a").update(created_at=Now() - timedelta(hours=1))
        assert relocating.relocate(node) == 1


def test_renamed_machine_is_not_lost(machines: TwoMachines, repository: CodeRepository) -> None:
    """Its disk is there under the new name."""
    machines.lose("a")
    machines.root("new").parent.mkdir()
    machines.root("a").rename(machines.root("new"))
    with machines.on("new") as node:
        # Its first round of upkeep comes before anything has looked at its disk.
        assert relocating.relocate(node) == 0
    assert machines.relocate("new") == 0
    assert Node.objects.get(pk="new").root_id == Node.objects.get(pk="a").root_id
    assert machines.relocate("b") == 0
    machines.lose("new")
    assert machines.relocate("b") == 1


def test_storage_that_fails_is_tried_again(
    machines: TwoMachines, repository: CodeRepository, settings: Settings
) -> None:
    """A restore waits for it, for as long as that takes, and asks no Git host meanwhile."""
    job = lost(machines, repository)
    machines.packs.rename(machines.packs.with_name("away"))
    machines.packs.mkdir()
    for attempt in range(job.max_attempts):
        # A directory that is not mounted has no file of the name.
        with machines.on("b"):
            Job.objects.filter(pk=job.pk).update(next_attempt_at=None)
        outcome = machines.work("b", job)
        assert outcome == ("failed" if attempt == job.max_attempts - 1 else "retry_scheduled")
    assert CodeRepository.objects.get().error_code == "storage_unavailable"
    machines.packs.rmdir()
    machines.packs.with_name("away").rename(machines.packs)
    assert machines.relocate("b") == 1
    assert machines.work("b", newest_job(repository)) == "succeeded"
    assert newest_job(repository).state == JobState.SUCCEEDED
