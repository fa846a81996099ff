"""The real git: run apart from any configuration of this machine, and small repositories made with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Final

ENVIRONMENT: Final = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
}
_IDENTITY: Final = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "1700000000 +0000",
    "GIT_COMMITTER_DATE": "1700000000 +0000",
}


def git(*arguments: str | Path, cwd: Path | None = None, **variables: str) -> str:
    """Run ``git`` and return what it prints, stripped; it must succeed."""
    return _succeeded(arguments, cwd=cwd, env={**ENVIRONMENT, **_IDENTITY, **variables}).decode().strip()


def git_bytes(*arguments: str | Path, at: Path | None = None, given: bytes = b"") -> bytes:
    """Run ``git`` on the repository ``at`` with ``given`` as its input and return what it prints; it must succeed."""
    where = [f"--git-dir={at}"] if at else []
    return _succeeded([*where, *arguments], input=given, env={**ENVIRONMENT, **_IDENTITY})


def git_run(*arguments: str | bytes | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run ``git`` as nobody in particular, however it ends."""
    return subprocess.run(["git", *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, check=False, timeout=120)


def _succeeded(arguments: Any, **options: Any) -> bytes:
    done = subprocess.run(["git", *arguments], capture_output=True, check=False, timeout=120, **options)
    assert done.returncode == 0, done.stderr
    return bytes(done.stdout)


def make_repository(path: Path, commits: int = 3, *, branch: str = "main") -> Path:
    """Make a repository with ``commits`` commits on ``branch``, one changed file each; return its path."""
    git("init", "--quiet", f"--initial-branch={branch}", path)
    for number in range(commits):
        (path / "file.txt").write_text(f"line {number}\n" * 50)
        git("add", "-A", cwd=path)
        git("commit", "--quiet", "-m", f"commit {number}", cwd=path, GIT_COMMITTER_DATE=f"{1700000000 + number} +0000")
    return path
