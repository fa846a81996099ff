"""A sandbox on disk for every repository that has one by its row."""

from __future__ import annotations

import os
from pathlib import Path

from coderepos import engine
from coderepos.models import CloneStatus, CodeRepository
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import LINKS
from coderepos.sandbox.versions import CONTENT, CURRENT, VERSIONS


def publish_all(root: SandboxRoot) -> int:
    """Make empty sandboxes below a root, as clones would have left them, and return how many.

    Rows say where their sandbox is afterwards.
    """
    rows = list(CodeRepository.objects.filter(clone_status=CloneStatus.COMPLETED).only("pk", "project_id", "version"))
    for row in rows:
        sandbox = engine.sandbox_of(row)
        _publish(sandbox.path, row.version)
        row.sandbox_path = str(sandbox.repository_path)
    CodeRepository.objects.bulk_update(rows, ["sandbox_path"], batch_size=500)
    return len(rows)


def _publish(path: Path, version: str) -> None:
    content = path / VERSIONS / version
    for name in CONTENT:
        (content / name).mkdir(parents=True, mode=0o700)
    os.symlink(f"{VERSIONS}/{version}", path / CURRENT)
    for name, target in LINKS.items():
        os.symlink(target, path / name)
