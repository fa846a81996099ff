"""A published version is stored, and any machine restores it without its Git host; damaged bytes are not published."""

from __future__ import annotations

import filecmp
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
from coderepos.services import relocating, upkeep
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
        upkeep.prepare_root(node)
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
