"""Sandboxes on disk, as clones would have left them, for rows that were made in bulk."""

from __future__ import annotations

import os
from pathlib import Path

from coderepos import engine
from coderepos.models import CloneStatus, CodeRepository, Job, JobState
from coderepos.sandbox.sandbox import LINKS
from coderepos.sandbox.versions import CONTENT, CURRENT, VERSIONS
from tests.load.filling import NODE


def publish(most: int) -> int:
    """Let the first repositories, ``most`` of them, be here with their sandboxes and all others elsewhere.

    :returns: how many are here.
    """
    CodeRepository.objects.update(node="elsewhere")
    Job.objects.filter(state__in=(JobState.QUEUED, JobState.RUNNING)).update(state=JobState.SUCCEEDED)
    rows = list(CodeRepository.objects.order_by("pk").only("pk", "project_id", "version")[:most])
    for row in rows:
        sandbox = engine.sandbox_of(row)
        row.version = row.version or "first"
        row.node, row.clone_status, row.error_code = NODE, CloneStatus.COMPLETED, ""
        row.sandbox_path = str(sandbox.repository_path)
        _make(sandbox.path, row.version)
    names = ["version", "node", "clone_status", "error_code", "sandbox_path"]
    CodeRepository.objects.bulk_update(rows, names, batch_size=500)
    return len(rows)


def _make(path: Path, version: str) -> None:
    for name in CONTENT:
        (path / VERSIONS / version / name).mkdir(parents=True, mode=0o700)
    os.symlink(f"{VERSIONS}/{version}", path / CURRENT)
    for name, target in LINKS.items():
        os.symlink(target, path / name)
