"""The real git: run apart from any configuration of this machine, and small repositories made with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def git(*arguments: str | Path, cwd: Path | None = None, **variables: str) -> str:
    """Run ``git`` apart from any user configuration and return what it prints, stripped."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "GIT_AUTHOR_DATE": "1700000000 +0000",
        "GIT_COMMITTER_DATE": "1700000000 +0000",
        "GIT_TERMINAL_PROMPT": "0",
        **variables,
    }
    done = subprocess.run(
        ["git", *arguments], cwd=cwd, env=environment, check=True, capture_output=True, text=True, timeout=120
    )
    return done.stdout.strip()


def make_repository(path: Path, commits: int = 3, *, branch: str = "main") -> Path:
    """Make a repository with ``commits`` commits on ``branch``, one changed file each; return its path."""
    git("init", "--quiet", f"--initial-branch={branch}", path)
    for number in range(commits):
        (path / "file.txt").write_text(f"line {number}\n" * 50)
        git("add", "-A", cwd=path)
        git("commit", "--quiet", "-m", f"commit {number}", cwd=path, GIT_COMMITTER_DATE=f"{1700000000 + number} +0000")
    return path
