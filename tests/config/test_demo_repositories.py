"""The demo's repositories and the Git server that hands them out, with the real ``git`` as the reference."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.demo.git_server import GitServer
from config.demo.repositories import Figures, make_oversized, make_shop

TOKEN = "sesame"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small repository of each kind."""
    folder = tmp_path_factory.mktemp("git")
    make_shop(folder / "shop.git", commits=8, photos=1)
    make_oversized(folder / "data-set.git", size_mib=3)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[GitServer]:
    """The demo's server on that folder."""
    with GitServer(folder, token=TOKEN) as server:
        yield server


def git(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``git`` without anybody's configuration."""
    clean = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "HOME": "/nonexistent"}
    return subprocess.run(
        ["git", *arguments], env={**clean, **environment}, capture_output=True, text=True, timeout=30, check=False
    )


def test_git_finds_nothing_wrong_with_the_repositories(folder: Path) -> None:
    """Every object, link and name is what git itself would write."""
    for name in ("shop.git", "data-set.git"):
        checked = git("-C", folder / name, "fsck", "--strict", "--full")

        assert (checked.returncode, checked.stderr) == (0, "")


def test_the_shop_has_a_history_branches_and_a_tag(folder: Path) -> None:
    """The figures that the demo tells are true."""
    path = folder / "shop-too.git"
    figures = make_shop(path, commits=8, photos=1)

    commits = git("-C", path, "rev-list", "--all", "--count").stdout
    refs = git("-C", path, "for-each-ref", "--format=%(refname) %(objecttype)").stdout.splitlines()

    assert figures == Figures(commits=int(commits), branches=3, tags=1)
    assert refs == [
        "refs/heads/feature/basket commit",
        "refs/heads/main commit",
        "refs/heads/release/1.0 commit",
        "refs/tags/v1.0 tag",
    ]


def test_a_clone_has_the_symlink_and_the_executable(server: GitServer, tmp_path: Path) -> None:
    """A full clone by git over the demo's server gives the default branch with both."""
    url = server.url("shop.git").replace("//", f"//anybody:{TOKEN}@")

    cloned = git("clone", "--quiet", url, tmp_path / "clone")

    assert cloned.returncode == 0, cloned.stderr
    assert (tmp_path / "clone" / "LATEST").readlink() == Path("docs/manual.md")
    assert os.access(tmp_path / "clone" / "bin" / "serve", os.X_OK)
    assert (tmp_path / "clone" / ".git" / "HEAD").read_text() == "ref: refs/heads/main\n"


def test_the_oversized_one_does_not_compress(folder: Path) -> None:
    """Its pack is as large as it says."""
    (pack,) = (folder / "data-set.git" / "objects" / "pack").glob("*.pack")

    assert pack.stat().st_size > 3 * 2**20


@pytest.mark.parametrize("credentials", ["", f"{TOKEN}@", "anybody:wrong@", f"anybody:{TOKEN}x@"])
def test_whoever_has_no_token_gets_nothing(server: GitServer, tmp_path: Path, credentials: str) -> None:
    """Without the token as the password, even the list of refs is refused."""
    cloned = git("clone", server.url("shop.git").replace("//", f"//{credentials}"), tmp_path / "clone")

    assert cloned.returncode != 0
    assert "Authentication failed" in cloned.stderr or "could not read" in cloned.stderr


def test_the_server_is_read_only(server: GitServer, folder: Path) -> None:
    """Not even the token allows a push."""
    url = server.url("data-set.git").replace("//", f"//anybody:{TOKEN}@")

    pushed = git("-C", folder / "shop.git", "push", url, "main:refs/heads/intruder")

    assert pushed.returncode != 0
    assert "403" in pushed.stderr


def test_names_outside_the_folder_are_no_repositories(server: GitServer, tmp_path: Path) -> None:
    """Only what lies directly in the folder is served."""
    url = server.url("%2e%2e/git/shop.git").replace("//", f"//anybody:{TOKEN}@", 1)

    cloned = git("clone", url, tmp_path / "clone")

    assert cloned.returncode != 0
    assert "not found" in cloned.stderr


def test_a_throttled_server_takes_its_time(folder: Path, tmp_path: Path) -> None:
    """Three MiB at six MB a second take half a second."""
    with GitServer(folder, token=TOKEN, bytes_per_second=6_000_000) as server:
        started = time.monotonic()
        cloned = git("clone", server.url("data-set.git").replace("//", f"//x:{TOKEN}@"), tmp_path / "clone")

    assert cloned.returncode == 0
    assert time.monotonic() - started > 0.5
