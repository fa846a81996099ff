"""Histories that end early: what ``git clone`` makes of a server's word for it is made of it here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from coderepos.exceptions import CodeReposError
from coderepos.git.clone import CloneRequest, clone
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import Sandbox
from tests.support.git import git, git_run, make_repository
from tests.support.servers.cutting import CuttingServer
from tests.support.servers.git_http_backend import GitServer

COMMITS = 5

Ending = tuple[list[str], list[str]] | None
"""History and its ends; nothing where there is no clone."""


def by_git(url: str, folder: Path, depth: int | None, version: int) -> Ending:
    """Return the history that ``git clone`` gets, and where its ``shallow`` file lets it end."""
    limit = [] if depth is None else [f"--depth={depth}"]
    protocol = f"protocol.version={version}"
    arguments = ("-c", protocol, "clone", "--quiet", "--single-branch", "--no-tags", *limit, url)
    if git_run(*arguments, folder / "reference").returncode:
        return None
    return ending(folder / "reference/.git")


def by_us(url: str, policy: NetworkPolicy, folder: Path, depth: int | None) -> Ending:
    """Return the same of our own clone."""
    root = SandboxRoot(folder / "repos")
    root.prepare("tests")
    incoming = Sandbox(root, "project", "repository").create_incoming("one")
    request = CloneRequest(
        url=url,
        credentials=None,
        ref="",
        depth=depth,
        policy=policy,
        limits=Limits(clone_seconds=30),
        min_level=1,
        group_readable=False,
    )
    try:
        clone(request, incoming=incoming, on_progress=lambda progress: None)
    except CodeReposError:
        return None
    return ending(incoming / "git")


def ending(data: Path) -> Ending:
    """Return what ``git log`` tells of a repository, which must be able to, and its ``shallow`` file."""
    shallow = data / "shallow"
    return git(f"--git-dir={data}", "log", "--format=%H").split(), sorted(
        set(shallow.read_text().split()) if shallow.exists() else ()
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A straight history with a tag."""
    repo = make_repository(tmp_path_factory.mktemp("cut") / "repo", commits=COMMITS)
    git("tag", "-a", "v1", "-m", "one", cwd=repo)
    return repo


def ids(repository: Path, *revisions: str) -> list[str]:
    return [git("rev-parse", revision, cwd=repository) for revision in revisions]


CUT = ("main", "^main~2")
CASES: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "nothing said": (["main"], ()),
    "cut where it is said": (CUT, ["shallow main~1"]),
    "cut where it is said, and said twice": (CUT, ["shallow main~1", "shallow main~1"]),
    "cut, and nothing said": (CUT, ()),
    "cut above where it is said": (CUT, ["shallow main~2"]),
    "the newest commit alone": (["main", "^main~1"], ["shallow main"]),
    "whole, yet said to be cut": (["main"], ["shallow main~1"]),
    "whole, yet said to be the newest commit": (["main"], ["shallow main"]),
    "whole, and said to end where it begins": (["main"], [f"shallow main~{COMMITS - 1}"]),
    "whole, and a tree": (["main"], ["shallow main^{tree}"]),
    "whole, and a file": (["main"], ["shallow main:file.txt"]),
    "whole, and unshallow": (["main"], ["unshallow main~1"]),
    "whole, and shallow taken back": (["main"], ["shallow main~1", "unshallow main~1"]),
}


@pytest.mark.parametrize("depth", [None, 2], ids=["all", "depth 2"])
@pytest.mark.parametrize("version", [0, 2], ids=["v0", "v2"])
@pytest.mark.parametrize("case", CASES)
def test_ends_of_history(repository: Path, tmp_path: Path, case: str, version: int, depth: int | None) -> None:
    """Asked for or not: believed where git believes it, refused where git refuses it, and the history is the same."""
    revisions, said = CASES[case]
    words = [line.split() for line in said]
    lines = [f"{word} {ids(repository, revision)[0]}" for word, revision in words]
    head = ids(repository, "main")[0]
    with CuttingServer(repository, head, revisions, lines=lines, version=version) as server:
        expected = by_git(server.url, tmp_path, depth, version)
        made = by_us(server.url, server.policy(), tmp_path, depth)

    assert made == expected


TOLD_WITH_REFS = [
    (case, depth)
    for case, (revisions, said) in CASES.items()
    for depth in (None, 2)
    # A depth needs an answer that says where it cuts.
    if not any(line.startswith("unshallow") for line in said) and (depth is None or revisions == ["main"])
]


@pytest.mark.parametrize(("case", "depth"), TOLD_WITH_REFS)
def test_ends_told_with_the_refs(repository: Path, tmp_path: Path, case: str, depth: int | None) -> None:
    """Version 0 tells the ends of a shallow repository with its refs; at a depth the answer alone counts."""
    revisions, said = CASES[case]
    told = ids(repository, *(line.split()[1] for line in said))
    head = ids(repository, "main")[0]
    with CuttingServer(repository, head, revisions, advertised=told, version=0) as server:
        expected = by_git(server.url, tmp_path, depth, 0)
        made = by_us(server.url, server.policy(), tmp_path, depth)

    assert made == expected


@pytest.mark.parametrize("depth", [None, 1, 2, 3, 10])
@pytest.mark.parametrize("version", [0, 2], ids=["v0", "v2"])
def test_repository_that_is_shallow_itself(repository: Path, tmp_path: Path, version: int, depth: int | None) -> None:
    """A remote that was cloned at a depth is cloned as far as it goes."""
    remote = tmp_path / "remote"
    git("clone", "--quiet", "--bare", "--depth=3", f"file://{repository}", remote / "shallow.git")
    with GitServer(remote, protocol_v2=version == 2) as server:
        url = server.url("shallow.git")
        expected = by_git(url, tmp_path, depth, version)
        made = by_us(url, server.policy(), tmp_path, depth)

    assert made == expected
    assert made is not None
    assert len(made[0]) == min(3, depth or 3)
