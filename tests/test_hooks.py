"""The hooks that run before a commit."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def test_hooks_run_what_make_lint_runs() -> None:
    """Each command of ``make lint`` is a hook, in the same words, and no hook comes from anywhere else."""
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    commands = re.sub(r'\t"\$\(BIN\)/([\w-]+)"', r".venv/bin/\1", recipe[1]).splitlines()
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]

    assert [repository["repo"] for repository in repositories] == ["local"]
    assert [hook["entry"] for hook in repositories[0]["hooks"]] == commands
    assert all(hook["always_run"] and not hook["pass_filenames"] for hook in repositories[0]["hooks"])
