"""A machine keeps the sandbox root that it marked, and makes no other one in its place."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from model_bakery import baker
from pytest_django import Settings

from coderepos import engine, services
from coderepos.crypto.secret import Secret
from coderepos.exceptions import SandboxRefused, SandboxRootMissing
from coderepos.models import CodeRepository, Job, Node
from coderepos.projects.models import Project
from coderepos.sandbox.mounts import mount_point_of
from coderepos.sandbox.root import SandboxRoot
from coderepos.services.disk import this_machine

pytestmark = pytest.mark.django_db


@pytest.fixture
def disk(settings: Settings, tmp_path: Path) -> Path:
    """Where the disk of the sandbox root is mounted."""
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(tmp_path / "disk/repos/")}
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def prepare() -> SandboxRoot:
    """Do what every job does first."""
    return this_machine.prepare_root(this_machine.register_node())


@pytest.fixture
def job(disk: Path) -> Job:
    """A queued clone."""
    repository = baker.make(
        CodeRepository, project=baker.make(Project), git_url="https://h/r", token_ciphertext=Secret("t" * 30)
    )
    return Job.objects.create(repository=repository, max_attempts=9)


@pytest.fixture
def away(disk: Path) -> None:
    """The disk is there when the root is made, and gone afterwards."""
    prepare()
    disk.rename(disk.parent / "unplugged")
    disk.mkdir()


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize("left", ["nothing", "directory"])
def test_root_whose_disk_is_away_is_not_made_anew(
    job: Job, disk: Path, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A job waits for the disk, the log says what to do, and nothing is written below the mount point."""
    if left == "directory":
        (disk / "repos").mkdir(mode=0o700)
    before = list(disk.rglob("*"))

    assert services.worker.run_clone(job_id=job.pk) == "retry_scheduled"
    with pytest.raises(SandboxRootMissing):
        services.worker.sweep()

    job.refresh_from_db()
    assert job.error_code == "sandbox_root_missing"
    assert "coderepos_adopt_root" in job.error_message
    assert list(disk.rglob("*")) == before
    assert [record.levelno for record in caplog.records].count(logging.CRITICAL) == 2
    assert f"sandbox root {disk / 'repos'}" in caplog.text


@pytest.mark.usefixtures("away")
def test_disk_that_is_mounted_again_is_used_again(disk: Path) -> None:
    """The first thing that the sentence says works."""
    disk.rmdir()
    (disk.parent / "unplugged").rename(disk)

    assert prepare().read_marker() == str(this_machine.register_node().root_id)


@pytest.mark.usefixtures("away")
def test_root_that_was_emptied_is_adopted(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second thing that the sentence says works too, any number of times."""
    for _ in range(2):
        call_command("coderepos_adopt_root")

    assert str(disk / "repos") in capsys.readouterr().out
    assert prepare().read_marker() == str(this_machine.register_node().root_id)


@pytest.mark.usefixtures("away")
def test_unsafe_root_is_not_adopted(disk: Path) -> None:
    """The command says why, without a traceback, and changes nothing."""
    (disk / "repos").mkdir(mode=0o700)
    SandboxRoot(disk / "repos").prepare(str(uuid.uuid4()))

    with pytest.raises(CommandError, match="another installation"):
        call_command("coderepos_adopt_root")


def test_every_root_of_a_machine_is_remembered(disk: Path, settings: Settings) -> None:
    """Another path is marked too, and the first one is still not made anew."""
    prepare()
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(disk / "other")}
    prepare()
    shutil.rmtree(disk / "repos")
    settings.CODEREPOS = {**settings.CODEREPOS, "SANDBOX_BASE_PATH": str(disk / "repos")}

    with pytest.raises(SandboxRootMissing):
        prepare()

    assert not (disk / "repos").exists()


def test_mount_that_goes_after_the_check_is_noticed(job: Job, disk: Path) -> None:
    """No directory of a sandbox is made in a root that has lost its marker."""
    sandbox = engine.sandbox_of(job.repository)
    prepare()
    (disk / "repos/.coderepos-root").unlink()

    with pytest.raises(SandboxRootMissing):
        sandbox.create_incoming("token")

    assert list((disk / "repos").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_real_mount_that_is_gone(disk: Path) -> None:
    """A real mount point: nothing is written to the disk below it, and the root is whole when it is back."""
    real = disk.parent / "real"
    real.mkdir()
    mount = ["mount", "--bind", str(real), str(disk)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        prepare()
        subprocess.run(["umount", str(disk)], check=True)
        with pytest.raises(SandboxRootMissing):
            prepare()
        assert list(disk.iterdir()) == []

        subprocess.run(mount, check=True)
        prepare()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_machine_that_comes_back_under_another_name_while_its_mount_is_gone(disk: Path, settings: Settings) -> None:
    """It must not take the directory below the mount for a new root, and has its own again once that is back."""
    real = disk.parent / "real"
    real.mkdir()
    mount = ["mount", "--bind", str(real), str(disk)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        root_id = prepare().read_marker()
        subprocess.run(["umount", str(disk)], check=True)
        settings.CODEREPOS = {**settings.CODEREPOS, "NODE_ID": "another"}
        with pytest.raises(SandboxRootMissing):
            prepare()
        assert list(disk.iterdir()) == []

        subprocess.run(mount, check=True)
        assert prepare().read_marker() == root_id
        assert str(this_machine.register_node().root_id) == root_id
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    ("theirs", "ours", "is_new"),
    [("/srv/disk", "/", False), ("/srv/disk", "/srv", False), ("/srv/disk", "/srv/disk", True), ("/", "/", True)],
)
def test_another_machine_may_have_a_root_at_the_same_path(theirs: str, ours: str, *, is_new: bool) -> None:
    """Unless only the other one's is on a disk of its own."""
    path = "/srv/disk/repos"
    Node.objects.create(name="other").record_root(path, mount_point=theirs)
    node = this_machine.register_node()

    assert node.may_mark(path, mount_point=ours) is is_new
    node.record_root(path, mount_point=ours)
    assert node.may_mark(path, mount_point=ours) is False


def test_machine_refuses_the_root_of_another(disk: Path, settings: Settings) -> None:
    """A second machine under the name of one that has a root takes neither its name nor its clones."""
    prepare()
    theirs = disk.parent / "theirs"
    settings.CODEREPOS = {**settings.CODEREPOS, "NODE_ID": "other", "SANDBOX_BASE_PATH": str(theirs)}
    root_id = prepare().read_marker()
    settings.CODEREPOS = {**settings.CODEREPOS, "NODE_ID": "test-node"}
    with pytest.raises(SandboxRefused, match="NODE_ID"):
        prepare()
    assert str(Node.objects.get(pk="other").root_id) == root_id
    assert str(Node.objects.get(pk="test-node").root_id) != root_id


def test_mount_points_are_found(tmp_path: Path) -> None:
    """Of directories that exist and of those that do not."""
    assert mount_point_of(Path("/proc/self/x")) == "/proc"
    assert mount_point_of(Path("/dev/shm/x/y")) == "/dev/shm"
    assert os.path.ismount(mount_point_of(tmp_path / "missing"))


def test_ancestor_that_others_may_write_fails_jobs_with_a_retry(job: Job, disk: Path) -> None:
    """The error says what to do, and doing it works."""
    disk.chmod(0o777)
    assert services.worker.run_clone(job_id=job.pk) == "retry_scheduled"
    job.refresh_from_db()
    assert (job.error_code, "chmod go-w" in job.error_message) == ("sandbox_refused", True)
    with pytest.raises(SandboxRefused):
        prepare()
    assert not (disk / "repos").exists()

    disk.chmod(0o755)
    prepare()
