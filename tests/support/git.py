"""The real git: run apart from any configuration of this machine, and small repositories made with it."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from stat import S_IMODE
from tempfile import TemporaryDirectory
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
    path.mkdir(parents=True, exist_ok=True)
    for name, mode, content in _repository(commits, branch):
        if content is None:
            (path / name).mkdir(exist_ok=True)
        else:
            (path / name).write_bytes(content)
            (path / name).chmod(mode)
    return path


@cache
def _repository(commits: int, branch: str) -> list[tuple[Path, int, bytes | None]]:
    """Return name, mode and content of all that is in such a repository; directories come before what is in them."""
    with TemporaryDirectory() as made:
        path = Path(made)
        git("init", "--quiet", "--template=", f"--initial-branch={branch}", path)
        for number in range(commits):
            (path / "file.txt").write_text(f"line {number}\n" * 50)
            git("add", "-A", cwd=path)
            git(
                "commit",
                "--quiet",
                "-m",
                f"commit {number}",
                cwd=path,
                GIT_COMMITTER_DATE=f"{1700000000 + number} +0000",
            )
        return [
            (one.relative_to(path), S_IMODE(one.stat().st_mode), None if one.is_dir() else one.read_bytes())
            for one in sorted(path.rglob("*"))
        ]
