"""The four-endpoint contract, by real HTTP, with a real worker and a real Git server."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coderepos.models import CodeRepository, Job, JobState
from coderepos.projects.models import Project
from tests.integration.conftest import ACCESS_TOKEN, StartCluster
from tests.support.api_client import Api
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer

UTC_SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
CodeSettings = Callable[..., dict[str, Any]]


def varied_repository(path: Path) -> Path:
    """Make a repository with everything that a checkout has to get right."""
    make_repository(path, commits=30)
    (path / "bin").mkdir()
    (path / "bin" / "tool").write_text("#!/bin/sh\n")
    (path / "bin" / "tool").chmod(0o755)
    (path / "deep" / "er").mkdir(parents=True)
    (path / "deep" / "er" / "empty").touch()
    (path / "link").symlink_to("file.txt")
    (path / "back\\slash and space").write_bytes(b"\r\n\0")
    git("add", "-A", cwd=path)
    git("commit", "--quiet", "-m", "everything", cwd=path)
    git("tag", "-a", "-m", "first", "v1", cwd=path)
    git("branch", "feature", "HEAD~3", cwd=path)
    return path


def snapshot(tree: Path) -> dict[str, tuple[str, bytes]]:
    """Return type and content of everything below a working tree."""
    found: dict[str, tuple[str, bytes]] = {}
    for folder, folders, files in os.walk(tree):
        if Path(folder) == tree and ".git" in folders:
            folders.remove(".git")
        for name in [*folders, *files]:
            path = Path(folder) / name
            key = str(path.relative_to(tree))
            if path.is_symlink():
                found[key] = ("link", os.readlink(path).encode())
            elif path.is_dir():
                found[key] = ("folder", b"")
            else:
                found[key] = ("executable" if path.stat().st_mode & stat.S_IXUSR else "file", path.read_bytes())
    return found


def fsck(git_dir: Path) -> str:
    """Return what ``git fsck`` has to say of a repository."""
    done = subprocess.run(
        ["git", f"--git-dir={git_dir}", "-c", "safe.directory=*", "fsck", "--full", "--strict"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_connected_repository_ends_in_its_read_only_sandbox(  # noqa: PLR0915  one life, told in order
    api: Api,
    project: Project,
    git_root: Path,
    git_server: GitServer,
    code_settings: CodeSettings,
    start_cluster: StartCluster,
    tmp_path: Path,
) -> None:
    """A repository goes from 201 over PENDING to COMPLETED, and its sandbox equals what git itself clones."""
    source = varied_repository(git_root / "source")
    url = git_server.url("source")
    values = code_settings(git_server)

    connected = api.post("/connect", {"git_url": url, "access_token": ACCESS_TOKEN, "project_id": str(project.pk)})

    assert connected.status == 201, connected.body
    body = connected.body
    assert {"repo_id", "git_url", "connected", "task_id", "estimated_size_mb", "clone_status", "created_at"} <= set(
        body
    )
    assert (body["git_url"], body["connected"], body["clone_status"]) == (url, True, "PENDING")
    assert isinstance(body["estimated_size_mb"], float)
    assert body["size_source"] == "probe"
    assert UTC_SECONDS.match(body["created_at"])
    assert ACCESS_TOKEN not in str(body)

    waiting = api.get(f"/repos/{body['repo_id']}/status").body
    assert (waiting["clone_status"], waiting["task_id"]) == ("PENDING", body["task_id"])
    assert waiting["sandbox_path"] is None
    assert waiting["repository_size_mb"] is None

    with start_cluster(values):
        done = api.wait_for(body["repo_id"], "COMPLETED", "FAILED")

    assert done["clone_status"] == "COMPLETED", done
    assert done["progress_message"] == "Repository successfully cloned"
    assert done["error_message"] is None
    assert done["repository_size_mb"] > 0
    sandbox = Path(values["SANDBOX_BASE_PATH"], str(project.pk), body["repo_id"])
    assert done["sandbox_path"] == str(sandbox / "repository")

    details = api.get(f"/repos/{body['repo_id']}").body
    assert details["clone_status"] == "COMPLETED"
    assert details["commit_id"] == git("rev-parse", "HEAD", cwd=source)
    assert "token" not in str(details).replace("token_expires_at", "").replace("token_status", "")
    listed = api.get(f"/projects/{project.pk}/repos").body
    assert [row["repo_id"] for row in listed["results"]] == [body["repo_id"]]

    reference = tmp_path / "reference"
    git("clone", "--quiet", source, reference)
    assert snapshot(sandbox / "repository") == snapshot(reference)
    assert fsck(sandbox / "git") == ""
    log = git(f"--git-dir={sandbox / 'git'}", "-c", "safe.directory=*", "log", "--format=%H", "HEAD", cwd=tmp_path)
    assert log == git("log", "--format=%H", cwd=source)
    for folder, folders, files in os.walk((sandbox / "current").resolve()):
        for name in ["", *folders, *files]:
            path = Path(folder, name)
            assert path.is_symlink() or not path.stat().st_mode & 0o222, path
    assert not list(sandbox.glob(".incoming-*"))
    job = Job.objects.get(pk=body["task_id"])
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
    assert job.isolation_level is not None


def test_ref_and_depth_reach_the_sandbox(
    api: Api,
    project: Project,
    git_root: Path,
    git_server: GitServer,
    code_settings: CodeSettings,
    start_cluster: StartCluster,
    tmp_path: Path,
) -> None:
    """A branch at depth 2 and a tag with all its history are what the sandboxes hold."""
    source = varied_repository(git_root / "source")
    values = code_settings(git_server)
    call = {"git_url": git_server.url("source"), "access_token": ACCESS_TOKEN, "project_id": str(project.pk)}
    branch = api.post("/connect", {**call, "ref": "feature", "depth": 2}).body["repo_id"]
    tag = api.post("/connect", {**call, "ref": "v1"}).body["repo_id"]

    with start_cluster(values):
        assert api.wait_for(branch, "COMPLETED", "FAILED")["clone_status"] == "COMPLETED"
        assert api.wait_for(tag, "COMPLETED", "FAILED")["clone_status"] == "COMPLETED"

    for repo_id, ref, commits in ((branch, "feature", "2"), (tag, "v1", "31")):
        git_dir = Path(values["SANDBOX_BASE_PATH"], str(project.pk), repo_id, "git")
        arguments = [f"--git-dir={git_dir}", "-c", "safe.directory=*"]
        assert git(*arguments, "rev-list", "--count", "HEAD", cwd=tmp_path) == commits
        assert git(*arguments, "rev-parse", "HEAD", cwd=tmp_path) == git("rev-parse", f"{ref}^{{commit}}", cwd=source)
        assert fsck(git_dir) == ""


@pytest.mark.of_any_database
def test_tls_server_with_a_private_authority(
    api: Api,
    project: Project,
    git_root: Path,
    code_settings: CodeSettings,
    start_cluster: StartCluster,
) -> None:
    """A repository behind https with a certificate of its own authority is cloned when the bundle is given."""
    make_repository(git_root / "source")
    with GitServer(git_root, tls=True) as server:
        values = code_settings(server)
        connected = api.post("/connect", {"git_url": server.url("source"), "project_id": str(project.pk)})
        assert connected.status == 201, connected.body
        with start_cluster(values):
            done = api.wait_for(connected.body["repo_id"], "COMPLETED", "FAILED")

    assert done["clone_status"] == "COMPLETED", done


@pytest.mark.of_any_database
def test_oversized_repository_is_refused_early(
    api: Api, project: Project, git_root: Path, git_server: GitServer, code_settings: CodeSettings
) -> None:
    """Connecting a repository over the limit answers 413 after about limit / 3.5 bytes, and stores nothing."""
    source = make_repository(git_root / "source")
    (source / "noise").write_bytes(os.urandom(8_000_000))
    git("add", "-A", cwd=source)
    git("commit", "--quiet", "-m", "noise", cwd=source)
    code_settings(git_server, MAX_REPO_SIZE_MB=7)
    git_server.bytes_per_second = 20_000_000

    answer = api.post(
        "/connect",
        {"git_url": git_server.url("source"), "access_token": ACCESS_TOKEN, "project_id": str(project.pk)},
    )

    assert answer.status == 413
    detail = answer.body["detail"]
    assert detail["error"] == "repository_too_large"
    assert detail["limit_mb"] == 7
    assert detail["estimated_size_mb"] > 7
    assert "at least" in detail["message"]
    # What the kernel's socket buffers take in before the server notices comes on top.
    assert git_server.sent_bytes < 2_000_000 + 5_000_000
    assert not CodeRepository.objects.exists()


def test_worker_ends_with_the_honest_error(
    api: Api,
    project: Project,
    git_root: Path,
    git_server: GitServer,
    code_settings: CodeSettings,
    start_cluster: StartCluster,
) -> None:
    """A repository that is gone when the worker comes is FAILED at once, without a retry, and says so."""
    make_repository(git_root / "source")
    values = code_settings(git_server)
    body = api.post(
        "/connect",
        {"git_url": git_server.url("source"), "access_token": ACCESS_TOKEN, "project_id": str(project.pk)},
    ).body
    (git_root / "source").rename(git_root / "elsewhere")

    with start_cluster(values):
        status = api.wait_for(body["repo_id"], "COMPLETED", "FAILED")

    assert (status["clone_status"], status["error_code"], status["retryable"]) == ("FAILED", "remote_not_found", False)
    assert status["attempt"] == 1
    assert not Path(values["SANDBOX_BASE_PATH"], str(project.pk), body["repo_id"], "versions").exists() or not any(
        Path(values["SANDBOX_BASE_PATH"], str(project.pk), body["repo_id"], "versions").iterdir()
    )

    (git_root / "elsewhere").rename(git_root / "source")
    again = api.post(f"/repos/{body['repo_id']}/clone")
    assert again.status == 202
    with start_cluster(values):
        assert api.wait_for(body["repo_id"], "COMPLETED", "FAILED")["clone_status"] == "COMPLETED"
