"""What has to hold when the dust has settled."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from coderepos import engine
from coderepos.models import CloneStatus, CodeRepository, Job, JobState
from coderepos.sandbox.sandbox import sandboxes

FINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


def broken(sources: dict[str, Path]) -> Iterator[str]:
    """Yield a sentence for everything that does not hold."""
    for job in Job.objects.select_related("repository").exclude(state__in=FINAL):
        yield f"job {job.pk} is stuck: {job.state}, attempt {job.attempt}, {job.error_code}"
    for repository in CodeRepository.objects.all():
        yield from _broken_repository(repository, sources)
    known = {str(pk) for pk in CodeRepository.objects.values_list("pk", flat=True)}
    for sandbox in sandboxes(engine.sandbox_root()):
        if sandbox.repository_id not in known:
            yield f"{sandbox.path} belongs to no row"


def outcomes() -> Counter[str]:
    """Return how the jobs ended."""
    return Counter(
        f"{state} {code}".strip() for state, code in Job.objects.values_list("state", "error_code").order_by()
    )


def _broken_repository(repository: CodeRepository, sources: dict[str, Path]) -> Iterator[str]:
    job = Job.objects.filter(repository=repository).newest_first()[0]
    sandbox = engine.sandbox_of(repository)
    status = CloneStatus.COMPLETED if job.state == JobState.SUCCEEDED else CloneStatus.FAILED
    if repository.clone_status not in (status, CloneStatus.CLEANED):
        yield f"repository {repository.pk} is {repository.clone_status}, its job {job.state}"
    status = CloneStatus(repository.clone_status)
    if incomings := sandbox.incomings():
        yield f"{sandbox.path} still has {sorted(incomings)} in the making"
    expected = {repository.version} if status == CloneStatus.COMPLETED else set()
    if sandbox.tokens() != expected:
        yield f"{sandbox.path} has {sorted(sandbox.tokens())}, and should have {sorted(expected)}"
    if status == CloneStatus.COMPLETED:
        if not sandbox.current() == repository.version == str(job.lease_token):
            yield f"{sandbox.path} shows {sandbox.current()}, row {repository.version}, job {job.lease_token}"
        source = sources[repository.git_url.rpartition("/")[2]]
        if contents(Path(str(repository.sandbox_path))) != contents(source):
            yield f"{repository.sandbox_path} is not what is committed in {source}"


def contents(tree: Path) -> dict[str, tuple[bytes, bool]]:
    """Return bytes and executable bit of all files of a working tree."""
    found = {}
    for folder, folders, files in os.walk(tree):
        if ".git" in folders:
            folders.remove(".git")
        for name in files:
            path = Path(folder, name)
            found[str(path.relative_to(tree))] = path.read_bytes(), os.access(path, os.X_OK) and _executable(path)
    return found


def _executable(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o100)


def repositories_are_sound() -> Iterator[str]:
    """Let git itself look at what was published."""
    for repository in CodeRepository.objects.filter(clone_status=CloneStatus.COMPLETED)[:10]:
        yield from is_sound(Path(str(repository.sandbox_path)).parent / "git")


def is_sound(git_folder: Path) -> Iterator[str]:
    """Let git itself look at one version."""
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", f"--git-dir={git_folder.resolve()}", "fsck", "--strict"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        yield f"{git_folder}: {done.stderr}"
