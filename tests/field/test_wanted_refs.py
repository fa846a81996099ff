"""Which commit a ref stands for: what ``git`` makes of the same words, and where it makes nothing, what is said."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coderepos.models import CodeRepository
from tests.support.git import ENVIRONMENT, git, git_run, make_repository
from tests.support.reference_git import listing
from tests.support.servers.git_http_backend import GitServer
from tests.support.servers.lacking import LackingServer
from tests.support.site import ADDRESS, Site

pytestmark = pytest.mark.of_any_database


def cloned(site: Site, url: str, ref: str = "", **values: Any) -> CodeRepository:
    """Connect and clone, and return the row."""
    repo_id = site.connected(url, ref=ref, **values)
    assert site.work(repo_id) == "succeeded", site.status(repo_id)
    return CodeRepository.objects.get(pk=repo_id)


def refused(site: Site, url: str, ref: str = "") -> tuple[str, str]:
    """Return code and sentence of a connect call that is refused."""
    answer = site.connect(url, ref=ref)
    assert answer.status_code == 422, answer.json()
    detail = answer.json()["detail"]
    return detail["error"], detail["message"]


@pytest.mark.parametrize("protocol_v2", [True, False], ids=["v2", "v0"])
def test_a_full_id_is_an_id_first(site: Site, tmp_path: Path, protocol_v2: bool) -> None:
    """A branch or a tag called like a commit never stands in for it.

    Git warns of such names and takes the commit (gitrevisions(7)); to pin one is what
    https://github.com/zephyrproject-rtos/west/issues/139 is about.
    """
    repo = make_repository(tmp_path / "served/repo", commits=3)
    pinned, newest = git("rev-parse", "HEAD~1", cwd=repo), git("rev-parse", "HEAD", cwd=repo)
    for kind in ("heads", "tags"):
        for name in (pinned, pinned.upper()):
            git("update-ref", f"refs/{kind}/{name}", newest, cwd=repo)
    git("config", "uploadpack.allowReachableSHA1InWant", "true", cwd=repo)
    with GitServer(repo.parent, protocol_v2=protocol_v2) as server:
        site.trust(server)
        for ref in (pinned, pinned.upper()):
            answer = site.connect(server.url("repo"), ref=ref)
            if ref == pinned:
                assert site.work(answer.json()["repo_id"]) == "succeeded"
                row = CodeRepository.objects.get(pk=answer.json()["repo_id"])
                assert (row.commit_id, row.ref_name, row.ref) == (pinned, "", pinned)
            else:
                assert answer.json()["detail"]["error"] == "already_connected"
        other = site.connected(server.url("repo"))
        site.work(other)
        changed = site.client.patch(f"{ADDRESS}/repos/{other}", {"ref": pinned.upper()}, format="json")
        assert changed.json()["detail"]["error"] == "already_connected"
        row = cloned(site, server.url("repo"), f"refs/heads/{pinned}")
        assert (row.commit_id, row.ref_name) == (newest, f"refs/heads/{pinned}")


ODD_NAMES = ["a./b", "-x", "@", "a@b", "é", "x.lock.y", "a{b", "heads/main", "refs/heads/main", "HEAD", "%2e", "a'b\"c"]


@pytest.mark.parametrize("kind", ["heads", "tags"])
def test_every_lawful_name(site: Site, tmp_path: Path, kind: str) -> None:
    """What ``git check-ref-format`` allows can be cloned, by the name as it is (josh-project/josh#10)."""
    repo = make_repository(tmp_path / "served/repo", commits=2)
    other = git("rev-parse", "HEAD~1", cwd=repo)
    for name in ODD_NAMES:
        git("update-ref", f"refs/{kind}/{name}", other, cwd=repo)
    with GitServer(repo.parent) as server:
        site.trust(server)
        for name in ODD_NAMES:
            full = f"refs/{kind}/{name}"
            assert git_run("check-ref-format", full).returncode == 0
            row = CodeRepository.objects.get(pk=site.connected(server.url("repo"), ref=full))
            assert row.ref_name == full
        for name in ("a./b", "-x", "é", "heads/main"):
            assert cloned(site, server.url("repo"), name).commit_id == other


@pytest.mark.parametrize("name", ["a b", "a..b", "a~1", "HEAD^", "main@{0}", "x.lock", ".x", "x.", "a//b", "/a", "a/"])
def test_no_lawful_name(site: Site, tmp_path: Path, name: str) -> None:
    """What Git refuses as a name is said to be none; expressions of ``git rev-parse`` mean nothing to a server."""
    repo = make_repository(tmp_path / "served/repo", commits=1)
    assert git_run("check-ref-format", f"refs/heads/{name}").returncode
    with GitServer(repo.parent) as server:
        site.trust(server)

        assert refused(site, server.url("repo"), name) == (
            "ref_not_found",
            "Git allows no branch or tag of this name; check the ref.",
        )


@pytest.mark.parametrize("protocol_v2", [True, False], ids=["v2", "v0"])
def test_commit_that_no_ref_names(site: Site, tmp_path: Path, protocol_v2: bool) -> None:
    """It is cloned where the server gives it away, and otherwise the sentence says what does work.

    https://github.com/zephyrproject-rtos/west/issues/139
    """
    repo = make_repository(tmp_path / "served/repo", commits=3)
    lost = git("rev-parse", "HEAD", cwd=repo)
    git("reset", "--quiet", "--hard", "HEAD~1", cwd=repo)
    hidden = git("rev-parse", "HEAD~1", cwd=repo)
    git("init", "--quiet", tmp_path / "reference")
    with GitServer(repo.parent, protocol_v2=protocol_v2) as server:
        site.trust(server)
        for commit in (lost, hidden):
            version = "protocol.version=2" if protocol_v2 else "protocol.version=0"
            by_git = git_run("-c", version, "fetch", "--quiet", server.url("repo"), commit, cwd=tmp_path / "reference")
            if by_git.returncode == 0:
                assert cloned(site, server.url("repo"), commit).commit_id == commit
            else:
                code, message = refused(site, server.url("repo"), commit)
                assert code == "ref_not_found"
                assert "branch" in message
        assert refused(site, server.url("repo"), hidden[:10]) == (
            "ref_not_found",
            "A commit is found only by its full id; give all 40 digits of it, or a branch or tag.",
        )
        assert cloned(site, server.url("repo"), "main").commit_id == git("rev-parse", "main", cwd=repo)


@pytest.mark.parametrize("protocol_v2", [True, False], ids=["v2", "v0"])
def test_nothing_to_check_out_by_default(site: Site, tmp_path: Path, protocol_v2: bool) -> None:
    """HEAD that points nowhere, only tags, only pull requests, nothing: told apart, and what is named can be cloned.

    josh-project/josh#10 is of a remote without the usual branch.
    """
    repo = make_repository(tmp_path / "served/repo", commits=1)
    git("tag", "v1", cwd=repo)
    git("update-ref", "refs/pull/7/head", "main", cwd=repo)
    git("symbolic-ref", "HEAD", "refs/heads/gone", cwd=repo)
    with GitServer(repo.parent, protocol_v2=protocol_v2) as server:
        site.trust(server)
        url = server.url("repo")
        for gone, says, named in (
            (None, "The repository's default branch does not exist; name a branch, such as main.", "main"),
            ("refs/heads/main", "The repository has tags but no branch; name a tag, such as v1.", "v1"),
            (
                "refs/tags/v1",
                "The repository has neither branches nor tags; name a ref in full, such as refs/pull/7/head.",
                "refs/pull/7/head",
            ),
        ):
            if gone:
                git("update-ref", "-d", gone, cwd=repo)
            folder = tmp_path / f"reference-{named.replace('/', '-')}"
            git_run("clone", "--quiet", url, folder)
            assert not folder.exists() or listing(folder) == {}
            assert refused(site, url) == ("ref_not_found", says)
            assert cloned(site, url, named).commit_id
        git("update-ref", "-d", "refs/pull/7/head", cwd=repo)
        assert refused(site, url)[0] == "repository_empty"


@pytest.mark.parametrize(("version", "tells_unborn"), [(0, False), (1, False), (2, False), (2, True)])
@pytest.mark.parametrize("branches", [["main", "master"], ["main"]], ids=str)
def test_head_that_the_server_says_nothing_of(
    site: Site, tmp_path: Path, branches: list[str], version: int, tells_unborn: bool
) -> None:
    """Git takes ``master`` then, where nothing else is configured; a server that tells of an unborn HEAD is believed.

    josh-project/josh#10
    """
    repo = make_repository(tmp_path / "repo", commits=2, branch="main")
    for name in branches[1:]:
        git("branch", name, "HEAD~1", cwd=repo)
    git("symbolic-ref", "HEAD", "refs/heads/gone", cwd=repo)
    lacks = {b"ls-refs=unborn"} if not tells_unborn else set()
    with LackingServer(repo, lambda name: name in lacks, version=version) as server:
        site.trust(server)
        git_run("clone", "--quiet", server.url, tmp_path / "reference")
        if expected := listing(tmp_path / "reference"):
            row = cloned(site, server.url)
            assert row.sandbox_path
            assert listing(Path(row.sandbox_path)) == expected
            assert row.ref_name == git("symbolic-ref", "HEAD", cwd=tmp_path / "reference")
        else:
            assert refused(site, server.url)[0] == "ref_not_found"
    assert bool(expected) == ("master" in branches and not tells_unborn)


def many_tags(repository: Path, number: int, *, annotated: bool) -> None:
    """Give a repository so many tags, packed as ``git pack-refs`` does it; annotated ones are all the same object."""
    if annotated:
        git("tag", "-a", "first", "-m", "x", cwd=repository)
    commit = git("rev-parse", "HEAD", cwd=repository)
    target = git("rev-parse", "first", cwd=repository) if annotated else commit
    peeled = f"^{commit}\n" if annotated else ""
    lines = "".join(f"{target} refs/tags/v{one:05}\n{peeled}" for one in range(number))
    (repository / ".git/packed-refs").write_text("# pack-refs with: peeled fully-peeled sorted \n" + lines)


@pytest.mark.parametrize(
    ("protocol_v2", "annotated"),
    [
        (True, True),
        pytest.param(True, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
    ],
    ids=["v2 peeled", "v2", "v0 peeled"],
)
def test_very_many_tags(site: Site, tmp_path: Path, protocol_v2: bool, annotated: bool) -> None:
    """A repository with more tags than come along is cloned without the rest: a probe promises what the clone keeps."""
    repo = make_repository(tmp_path / "served/repo", commits=2)
    many_tags(repo, 60_000, annotated=annotated)
    with GitServer(repo.parent, protocol_v2=protocol_v2) as server:
        site.trust(server)
        row = cloned(site, server.url("repo"))
        tagged = cloned(site, server.url("repo"), "v59999")

    assert row.commit_id == git("rev-parse", "HEAD", cwd=repo)
    counts = site.job(str(row.pk)).result["substitutions"]
    assert row.sandbox_path
    kept = git(f"--git-dir={Path(row.sandbox_path).parent / 'git'}", "for-each-ref", "--format=x", "refs/tags")
    assert counts["tag"] == 60_000 + annotated - len(kept.split())
    assert len(kept.split()) == 50_000
    assert tagged.ref_name == "refs/tags/v59999"


def test_tags_whose_list_is_too_long(site: Site, tmp_path: Path) -> None:
    """So is one whose list of tags alone is more than is read of a server before its pack."""
    repo = make_repository(tmp_path / "served/repo", commits=1)
    many_tags(repo, 180_000, annotated=False)
    with GitServer(repo.parent) as server:
        site.trust(server)
        row = cloned(site, server.url("repo"))

    assert row.commit_id == git("rev-parse", "HEAD", cwd=repo)
    assert site.job(str(row.pk)).result["substitutions"]["tag"] > 0


def test_default_branch_that_is_no_text(site: Site, tmp_path: Path) -> None:
    """A branch whose name is no UTF-8 is cloned as git clones it."""
    repo = make_repository(tmp_path / "served/repo", commits=1)
    command = [b"git", b"branch", b"-m", b"b\xff"]
    subprocess.run(command, cwd=repo, env={**ENVIRONMENT, **os.environ}, check=True)
    with GitServer(repo.parent) as server:
        site.trust(server)
        row = cloned(site, server.url("repo"))
        git_run("clone", "--quiet", server.url("repo"), tmp_path / "reference")

    assert row.sandbox_path
    assert listing(Path(row.sandbox_path)) == listing(tmp_path / "reference")
    assert (Path(row.sandbox_path).parent / "git/HEAD").read_bytes() == b"ref: refs/heads/b\xff\n"
