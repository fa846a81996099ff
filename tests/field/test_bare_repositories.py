"""Trees that look like a repository of their own: Git must not take configuration, and with it commands, from them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coderepos.git.wire import BuildReport
from coderepos.git.worktree.entry_names import is_git_directory
from tests.support import packs
from tests.support.build_child import built_of
from tests.support.git import git_run
from tests.support.packs import FILE, FOLDER, GITLINK, LINK, Line, Object, blob

HEAD = b"ref: refs/heads/main\n"
FILES = packs.tree(Line(FILE, b"file", blob().id))


class LookAlike:
    """A tree with the parts of a repository whose configuration runs a command.

    :param marker: file that the command makes.
    """

    def __init__(self, marker: Path) -> None:
        command = marker.parent / "command"
        command.write_text(f"#!/bin/sh\ntouch '{marker}'\n")
        command.chmod(0o700)
        self.config = blob(
            f"[core]\n\trepositoryformatversion = 0\n\tworktree = folder\n\tfsmonitor = {command}\n".encode()
        )
        self.objects = [blob(), FILES, self.config]

    def put(self, mode: bytes, name: bytes, content: bytes) -> Line:
        """Return an entry with an object of its own."""
        self.objects.append(blob(content))
        return Line(mode, name, self.objects[-1].id)

    def parts(self, head: bytes = HEAD, head_mode: bytes = FILE) -> list[Line]:
        """Return the entries."""
        folders = [Line(FOLDER, name, FILES.id) for name in (b"objects", b"refs", b"folder")]
        return [self.put(head_mode, b"HEAD", head), Line(FILE, b"config", self.config.id), *folders]

    def built(self, incoming: Path, *lines: Line) -> BuildReport:
        """Build a commit of these entries."""
        root = packs.tree(*lines)
        head = packs.commit(root)
        return built_of(incoming, [*self.objects, root, head], head)

    def folder(self, name: bytes, *lines: Line) -> Line:
        """Return an entry for a directory with these."""
        self.objects.append(packs.tree(*lines))
        return Line(FOLDER, name, self.objects[-1].id)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Path that appears when the command of a configuration is run."""
    return tmp_path / "marker"


def ran(marker: Path, folder: Path, *options: str) -> bool:
    """Whether ``git status`` in a folder runs the command; nothing above the folder is a repository."""
    marker.unlink(missing_ok=True)
    git_run(*options, "status", cwd=folder)
    return marker.exists()


def test_git_status_at_the_top_runs_nothing(tmp_path: Path, marker: Path) -> None:
    """No command of a bare repository runs that is buried in a working tree.

    https://github.com/justinsteven/advisories/blob/main/2022_git_buried_bare_repos_and_fsmonitor_various_abuses.md
    Nor does it in a folder below, under any name by which the working tree is reached.
    """
    look_alike = LookAlike(marker)
    report = look_alike.built(tmp_path / "ours", *look_alike.parts())
    tree = tmp_path / "ours/tree"
    (tmp_path / "by-link").symlink_to(tree)
    assert sorted(os.listdir(tree)) == ["config", "folder", "objects", "refs"]
    assert report.substitutions == {"bare_repository": 1}
    assert report.substituted_paths == ("bare_repository: HEAD",)
    for place in (
        tree,
        tree / "folder",
        tree / "refs",
        tree / "objects",
        tmp_path / "by-link",
        tmp_path / "by-link/refs",
    ):
        assert not ran(marker, place)
        assert git_run("rev-parse", "--git-dir", cwd=place).returncode == 128


def test_the_command_would_be_run(tmp_path: Path, marker: Path) -> None:
    """The marker is no sign of safety where nothing would make it."""
    look_alike = LookAlike(marker)
    look_alike.built(tmp_path / "ours", *look_alike.parts())
    tree = tmp_path / "ours/tree"
    tree.chmod(0o700)
    (tree / "HEAD").write_bytes(HEAD)
    assert ran(marker, tree)
    assert ran(marker, tree / "folder")


@pytest.mark.parametrize(
    ("mode", "head"),
    [
        (FILE, HEAD),
        (FILE, b"1" * 40 + b"\n"),
        (LINK, b"refs/heads/main"),
        (LINK, b"ref: refs/../../../.."),
        (LINK, b"config"),
        (FILE, b"not a ref at all"),
    ],
)
def test_whatever_head_holds_it_is_left_out(tmp_path: Path, marker: Path, mode: bytes, head: bytes) -> None:
    """A link that leaves the tree becomes a file of its text, which is a head then: names decide, not contents."""
    look_alike = LookAlike(marker)
    report = look_alike.built(tmp_path / "ours", *look_alike.parts(head, mode))
    assert not (tmp_path / "ours/tree/HEAD").is_symlink()
    assert not (tmp_path / "ours/tree/HEAD").exists()
    assert report.substitutions == {"bare_repository": 1}
    assert not ran(marker, tmp_path / "ours/tree")


def test_the_parts_may_be_elsewhere(tmp_path: Path, marker: Path) -> None:
    """``commondir`` names the folder of refs, objects and configuration; links stand for folders."""
    look_alike = LookAlike(marker)
    elsewhere = look_alike.folder(b"elsewhere", *look_alike.parts())
    lines = [look_alike.put(FILE, b"HEAD", HEAD), look_alike.put(FILE, b"commondir", b"elsewhere\n"), elsewhere]
    report = look_alike.built(tmp_path / "common", *lines)
    assert report.substitutions == {"bare_repository": 2}
    assert sorted(report.substituted_paths) == ["bare_repository: HEAD", "bare_repository: elsewhere"]
    assert not ran(marker, tmp_path / "common/tree")

    links = [look_alike.put(LINK, name, b"elsewhere/" + name) for name in (b"objects", b"refs", b"config")]
    report = look_alike.built(tmp_path / "links", look_alike.put(FILE, b"HEAD", HEAD), *links, elsewhere)
    assert sorted(report.substituted_paths) == ["bare_repository: HEAD", "bare_repository: elsewhere"]
    assert not ran(marker, tmp_path / "links/tree")


def test_deeper_ones_are_written_and_reported(tmp_path: Path, marker: Path) -> None:
    """Projects keep such fixtures. Readers that run Git inside of one need ``safe.bareRepository=explicit``."""
    look_alike = LookAlike(marker)
    deep = look_alike.folder(b"repo.git", *look_alike.parts())
    report = look_alike.built(tmp_path / "ours", look_alike.folder(b"a", deep), look_alike.folder(b"b", deep))
    tree = tmp_path / "ours/tree"
    assert report.substitutions == {"bare_repository": 2}
    assert sorted(report.substituted_paths) == ["bare_repository: a/repo.git", "bare_repository: b/repo.git"]
    assert (tree / "a/repo.git/HEAD").read_bytes() == HEAD
    assert not ran(marker, tree)
    assert not ran(marker, tree / "a")
    assert ran(marker, tree / "a/repo.git")
    assert not ran(marker, tree / "a/repo.git", "-c", "safe.bareRepository=explicit")


def test_a_file_of_this_name_alone_is_written(tmp_path: Path, marker: Path) -> None:
    """No more is left out than must be: neither a HEAD without refs, nor a folder called so."""
    look_alike = LookAlike(marker)
    report = look_alike.built(
        tmp_path / "file", look_alike.put(FILE, b"HEAD", HEAD), Line(FOLDER, b"objects", FILES.id)
    )
    assert (tmp_path / "file/tree/HEAD").read_bytes() == HEAD
    assert report.substitutions == {}
    for number, line in enumerate((Line(FOLDER, b"HEAD", FILES.id), Line(GITLINK, b"HEAD", "1" * 40))):
        report = look_alike.built(tmp_path / f"{number}", *look_alike.parts()[1:], line)
        assert (tmp_path / f"{number}/tree/HEAD").is_dir()
        assert "bare_repository" not in report.substitutions
        assert not ran(marker, tmp_path / f"{number}/tree")


def test_git_takes_nothing_else_for_a_repository(tmp_path: Path) -> None:
    """Of every set of names that Git accepts, ours is one: the rule leaves out no less than needed."""
    names = (b"HEAD", b"refs", b"objects", b"commondir", b"config", b"packed-refs")
    for part in ("objects", "refs"):
        (tmp_path / "common" / part).mkdir(parents=True)
    for number in range(2 ** len(names)):
        chosen = {name for bit, name in enumerate(names) if number >> bit & 1}
        place = tmp_path / f"{number}"
        place.mkdir()
        for name in chosen:
            path = place / name.decode()
            if name in (b"refs", b"objects"):
                path.mkdir()
            else:
                path.write_bytes({b"HEAD": HEAD, b"commondir": b"../common\n"}.get(name, b""))
        taken = git_run("rev-parse", "--git-dir", cwd=place).returncode == 0
        assert is_git_directory(chosen) or not taken


def test_the_entries_of_one_name_decide_after_they_became_one(tmp_path: Path, marker: Path) -> None:
    """A folder called HEAD that a file takes the place of is a file."""
    look_alike = LookAlike(marker)
    lines = [Line(FOLDER, b"HEAD", FILES.id), *look_alike.parts()]
    root: Object = packs.tree(*lines, is_sorted=False)
    head = packs.commit(root)
    report = built_of(tmp_path / "ours", [*look_alike.objects, root, head], head)
    assert report.substitutions == {"duplicate": 1, "bare_repository": 1}
    assert not (tmp_path / "ours/tree/HEAD").exists()
    assert not ran(marker, tmp_path / "ours/tree")
