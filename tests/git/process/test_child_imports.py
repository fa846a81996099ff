"""What the children import before their first word: every clone and probe waits for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from coderepos.git.process import supervisor

DEAR = {
    "argparse",
    "ast",
    "asyncio",
    "base64",
    "coderepos.git.process.events",
    "coderepos.git.process.supervisor",
    "coderepos.git.clone",
    "coderepos.git.results",
    "cryptography",
    "dataclasses",
    "datetime",
    "dis",
    "django",
    "dulwich",
    "email",
    "http",
    "http.client",
    "importlib.util",
    "inspect",
    "logging",
    "pathlib",
    "queue",
    "random",
    "shutil",
    "site",
    "ssl",
    "subprocess",
    "tempfile",
    "tokenize",
    "traceback",
    "typing",
    "urllib",
    "urllib.parse",
    "urllib3",
}
"""What takes long to import, or belongs to another process."""


@pytest.mark.parametrize("module", ["fetch", "build", "commit_search", "confinement.profiles"])
def test_a_child_imports_only_what_it_uses(module: str) -> None:
    """Nothing dear is loaded by the modules that are run, however indirectly."""
    module = f"coderepos.git.{module}"
    code = f"import sys; sys.path[:0] = [{supervisor.ROOT!r}]; import {module}; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)

    assert module in answer.stdout.split()
    assert sorted(DEAR & set(answer.stdout.split())) == []
