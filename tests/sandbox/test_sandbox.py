"""The layout on disk and every move in it, as root and as a user whom modes bind."""

from __future__ import annotations

import errno
import grp
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coderepos.exceptions import CodeReposError, SandboxFull, SandboxRefused, SandboxUnavailable
from coderepos.sandbox import directories, marker, removal
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import Sandbox, sandboxes
from tests.support.users import NOBODY, USERS, as_user

ROOT_ID = "7d9b0d3e-0000-4000-8000-000000000001"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user reaches."""
    folder = Path(tempfile.mkdtemp(prefix="coderepos-"))
    folder.chmod(0o711)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=False)
    shutil.rmtree(folder)


@pytest.fixture
def root(place: Path) -> SandboxRoot:
    """A prepared root of the tests' own user."""
    made = SandboxRoot(place / "repos")
    made.prepare(ROOT_ID)
    return made


@pytest.fixture
def sandbox(root: SandboxRoot) -> Sandbox:
    """The sandbox of one repository, not on disk yet."""
    return Sandbox(root, "project", "repository")


def build(sandbox: Sandbox, token: str, content: str = "content") -> None:
    """Do what the build child does: a read-only tree and its Git data."""
    incoming = sandbox.create_incoming(token)
    for name in ("tree/folder", "git/objects/pack"):
        (incoming / name).mkdir(parents=True)
    (incoming / "tree/folder/file").write_text(content)
    (incoming / "git/HEAD").write_text("ref: refs/heads/main\n")
    for path, names, files in os.walk(incoming, topdown=False):
        for name in files:
            os.chmod(os.path.join(path, name), 0o400)
        for name in names:
            os.chmod(os.path.join(path, name), 0o500)


def publish(sandbox: Sandbox, token: str, content: str = "content") -> None:
    """Build, publish and activate a version."""
    build(sandbox, token, content)
    sandbox.finish_incoming(token)
    sandbox.activate(token)


def mode(path: Path) -> int:
    """Return the permission bits of a path itself."""
    return stat.S_IMODE(path.lstat().st_mode)


def snapshot(folder: Path) -> set[str]:
    """Return the names of everything below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("user", USERS)
def test_a_life_of_a_sandbox(place: Path, user: int | None) -> None:
    """Two versions are published one after the other and everything is removed again, by any user."""
    if user is not None:
        os.chown(place, user, user)

    def life() -> None:
        root = SandboxRoot(place / "repos")
        root.prepare(ROOT_ID)
        sandbox = Sandbox(root, "project", "repository")
        publish(sandbox, "one", "first")
        assert sandbox.repository_path == place / "repos/project/repository/repository"
        assert (sandbox.repository_path / "folder/file").read_text() == "first"
        assert (sandbox.path / "git/HEAD").read_text() == "ref: refs/heads/main\n"
        publish(sandbox, "two", "second")
        assert (sandbox.repository_path / "folder/file").read_text() == "second"
        assert sandbox.current() == "two"
        assert sandbox.versions().keys() == {"one", "two"}
        assert sandbox.discard("one")
        assert sandbox.versions().keys() == {"two"}
        sandbox.remove()
        assert os.listdir(place / "repos") == [marker.MARKER]

    as_user(user, life)


def test_modes_close_the_sandbox_to_others(sandbox: Sandbox) -> None:
    """Without a group nobody else gets in, and nobody at all may write a published version."""
    publish(sandbox, "one")

    assert {mode(path) for path in (sandbox.root.path, sandbox.path.parent, sandbox.path)} == {0o700}
    assert mode(sandbox.path / "versions/one") == 0o500


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to a group that it is no member of")
def test_a_group_may_read_without_a_call_per_file(place: Path) -> None:
    """With a group, folders inherit it from the root, and its members can read a published version but not write."""
    group = grp.getgrgid(NOBODY).gr_name
    root = SandboxRoot(place / "repos", group=group)
    root.prepare(ROOT_ID)
    sandbox = Sandbox(root, "project", "repository")
    os.umask(0o077)
    incoming = sandbox.create_incoming("one")
    (incoming / "tree").mkdir()
    (incoming / "tree/file").write_text("content")
    (incoming / "tree/file").chmod(0o440)
    (incoming / "tree").chmod(0o550)
    sandbox.finish_incoming("one")
    sandbox.activate("one")
    os.umask(0o022)

    assert mode(root.path) == 0o2750
    assert mode(sandbox.path / "versions/one") == 0o550
    assert as_user(NOBODY, (sandbox.repository_path / "file").read_text) == "content"
    with pytest.raises(PermissionError):
        as_user(NOBODY, lambda: os.mkdir(sandbox.path / "new"))


def test_an_unknown_group_is_refused(place: Path) -> None:
    """A group that does not exist is refused before anything is written."""
    with pytest.raises(SandboxRefused):
        SandboxRoot(place / "repos", group="no-such-group").prepare(ROOT_ID)

    assert snapshot(place / "repos") == set()


def test_a_root_is_marked_once(root: SandboxRoot, place: Path) -> None:
    """A root belongs to the installation that marked it first; preparing it again changes nothing."""
    root.prepare(ROOT_ID)

    assert root.read_marker() == ROOT_ID
    with pytest.raises(SandboxRefused):
        root.prepare("another")
    assert root.read_marker() == ROOT_ID
    assert snapshot(place / "repos") == {marker.MARKER}


def test_no_root_has_no_marker(place: Path) -> None:
    """Reading the marker of what does not exist creates nothing."""
    root = SandboxRoot(place / "nowhere/repos")

    assert root.read_marker() is None
    assert sandboxes(root) == []
    assert snapshot(place) == set()


def test_workers_that_start_at_once_agree_on_the_marker(place: Path) -> None:
    """Of many processes with ids of their own one marks the root, and all others are refused."""
    go_reading, go_writing = os.pipe()
    children = []
    for number in range(8):
        if not (child := os.fork()):
            os.close(go_writing)
            os.read(go_reading, 1)
            try:
                SandboxRoot(place / "repos").prepare(f"worker-{number}")
            except SandboxRefused:
                os._exit(1)
            os._exit(0)
        children.append(child)
    os.close(go_reading)
    os.close(go_writing)

    outcomes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

    assert sorted(outcomes) == [0] + [1] * 7
    assert SandboxRoot(place / "repos").read_marker() == f"worker-{outcomes.index(0)}"
    assert snapshot(place / "repos") == {marker.MARKER}


def link(path: Path) -> None:
    """Put a link to a fine folder in the way."""
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    path.symlink_to(elsewhere)


def file(path: Path) -> None:
    """Put a file in the way."""
    path.write_text("here")


def writable(path: Path) -> None:
    """Put a folder in the way that others may write."""
    path.mkdir()
    path.chmod(0o777)


def group_writable(path: Path) -> None:
    """Put a folder in the way that a group may write."""
    path.mkdir()
    path.chmod(0o770)


def foreign(path: Path) -> None:
    """Put somebody else's folder in the way."""
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)


IN_THE_WAY = [link, file, writable, group_writable] + ([foreign] if os.geteuid() == 0 else [])


@pytest.mark.parametrize("obstacle", IN_THE_WAY)
def test_an_unsafe_root_is_refused(place: Path, obstacle: Callable[[Path], None]) -> None:
    """A root that is a link, a file, foreign or writable by others is never used, and stays as it is."""
    obstacle(place / "repos")
    before = snapshot(place)
    root = SandboxRoot(place / "repos")

    with pytest.raises(SandboxRefused):
        root.prepare(ROOT_ID)
    with pytest.raises(SandboxRefused):
        root.read_marker()
    with pytest.raises(SandboxRefused):
        Sandbox(root, "project", "repository").create_incoming("token")

    assert snapshot(place) == before


@pytest.mark.parametrize("level", ["project", "project/repository", "project/repository/.incoming-token"])
@pytest.mark.parametrize("obstacle", IN_THE_WAY)
def test_an_unsafe_sandbox_is_refused(root: SandboxRoot, level: str, obstacle: Callable[[Path], None]) -> None:
    """What is in the way inside the root is not followed and not written to."""
    path = root.path / level
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in (root.path / "project", root.path / "project/repository"):
        if folder.is_dir():
            folder.chmod(0o700)
    obstacle(path)
    before = snapshot(root.path)

    with pytest.raises(SandboxRefused):
        Sandbox(root, "project", "repository").create_incoming("token")

    assert snapshot(root.path) == before


def test_a_folder_with_content_keeps_it_until_it_is_removed(sandbox: Sandbox) -> None:
    """A sandbox folder that is there already is used, and its strange content hurts nobody."""
    sandbox.path.mkdir(parents=True)
    (sandbox.path / "strange").write_text("here")

    publish(sandbox, "one")

    assert (sandbox.path / "strange").exists()
    assert (sandbox.repository_path / "folder/file").exists()


@pytest.mark.parametrize("name", ["repository", "git", "current"])
def test_a_folder_in_place_of_a_link_is_refused(sandbox: Sandbox, name: str) -> None:
    """Where one of the three links should be, a folder with content is neither replaced nor entered."""
    build(sandbox, "one")
    sandbox.finish_incoming("one")
    (sandbox.path / name).mkdir()
    (sandbox.path / name / "file").write_text("here")

    with pytest.raises(SandboxRefused):
        sandbox.activate("one")

    assert (sandbox.path / name / "file").read_text() == "here"


def test_a_wrong_link_is_replaced(sandbox: Sandbox) -> None:
    """A constant link that leads elsewhere is put right by the next activation."""
    build(sandbox, "one")
    sandbox.finish_incoming("one")
    (sandbox.path / "repository").symlink_to("/etc")

    sandbox.activate("one")

    assert os.readlink(sandbox.path / "repository") == "current/tree"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "ä", "x" * 65, "a b", ".hidden", "a\n"])
def test_names_that_are_no_plain_segment_are_refused(root: SandboxRoot, name: str) -> None:
    """Project keys, repository ids and tokens can never leave their folder."""
    with pytest.raises(SandboxRefused):
        Sandbox(root, name, "repository")
    with pytest.raises(SandboxRefused):
        Sandbox(root, "project", name)
    for verb in ("create_incoming", "finish_incoming", "activate", "discard", "discard_incoming"):
        with pytest.raises(SandboxRefused):
            getattr(Sandbox(root, "project", "repository"), verb)(name)


def test_publishing_shows_nothing_before_the_flip(sandbox: Sandbox) -> None:
    """Readers see the old version until the link is set, and the new one at once then."""
    publish(sandbox, "one", "first")
    build(sandbox, "two", "second")
    sandbox.finish_incoming("two")

    assert (sandbox.repository_path / "folder/file").read_text() == "first"
    resolved = sandbox.repository_path.resolve()

    sandbox.activate("two")

    assert (sandbox.repository_path / "folder/file").read_text() == "second"
    assert (resolved / "folder/file").read_text() == "first"


def test_what_is_not_there_can_not_be_published(sandbox: Sandbox) -> None:
    """A missing folder is an error and leaves no link behind."""
    with pytest.raises(SandboxUnavailable):
        sandbox.finish_incoming("none")
    sandbox.create_incoming("one")
    with pytest.raises(SandboxUnavailable):
        sandbox.activate("one")

    assert snapshot(sandbox.path) == {".incoming-one"}


def test_removing_what_is_not_there_is_fine(sandbox: Sandbox) -> None:
    """Every removal can be asked for again."""
    for _ in range(2):
        sandbox.discard("one")
        sandbox.discard_incoming("one")
        for token in sandbox.tokens():
            sandbox.discard(token)
        sandbox.remove()
        assert sandbox.sweep(keep=(), older_than_seconds=0) == 0
        assert sandbox.current() is None
        assert sandbox.versions() == sandbox.incomings() == {}
        if sandbox.path.exists():
            break
        sandbox.create_incoming("other")


def test_the_loser_removes_its_own_version_only(sandbox: Sandbox) -> None:
    """Discarding a version that was published but never shown leaves the shown one and its link alone."""
    publish(sandbox, "one", "first")
    build(sandbox, "two")
    sandbox.finish_incoming("two")
    build(sandbox, "three")

    sandbox.discard("two")
    sandbox.discard("three")

    assert sandbox.versions().keys() == {"one"}
    assert sandbox.incomings() == {}
    assert (sandbox.repository_path / "folder/file").read_text() == "first"


def test_what_readers_see_is_not_discarded(sandbox: Sandbox) -> None:
    """A version goes only once the link leads elsewhere, and never takes the link along."""
    publish(sandbox, "one")
    assert not sandbox.discard("one")
    assert (sandbox.repository_path / "folder/file").exists()

    publish(sandbox, "two")
    assert sandbox.discard("one")
    assert sandbox.tokens() == {"two"}


def test_everything_of_a_token_is_found_and_goes(sandbox: Sandbox) -> None:
    """In the making, published, or on its way out by half."""
    publish(sandbox, "seen")
    build(sandbox, "building")
    build(sandbox, "published")
    sandbox.finish_incoming("published")
    build(sandbox, "removing")
    (sandbox.path / ".incoming-removing").rename(sandbox.path / ".removing-removing")
    (sandbox.path / "strange").write_text("here")

    assert sandbox.tokens() == {"seen", "building", "published", "removing"}
    for token in sandbox.tokens():
        assert sandbox.discard(token) == (token != "seen")

    assert sandbox.tokens() == {"seen"}
    assert (sandbox.repository_path / "folder/file").exists()
    assert (sandbox.path / "strange").exists()


def test_an_empty_sandbox_goes_with_its_links(sandbox: Sandbox) -> None:
    """What has a version, or a job at work, stays whole."""
    publish(sandbox, "one")
    sandbox.create_incoming("two")
    before = snapshot(sandbox.path)
    sandbox.remove_empty()
    assert snapshot(sandbox.path) == before
    sandbox.retract("one")
    sandbox.remove_empty()
    assert sandbox.incomings().keys() == {"two"}
    sandbox.discard("two")

    sandbox.remove_empty(older_than_seconds=3600)
    assert sandbox.path.exists()
    sandbox.remove_empty()
    assert not sandbox.path.parent.exists()


@pytest.mark.parametrize("step", ["_if_exists", "_remove_if_empty"])
def test_a_version_that_comes_while_its_sandbox_goes_is_whole(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whoever was frozen in the middle of the removal puts back the links that the other one had set."""
    publish(sandbox, "one")
    sandbox.retract("one")
    original = getattr(Sandbox, step)
    called: list[None] = []

    def late(self: Sandbox) -> object:
        if not called:
            called.append(None)
            publish(sandbox, "two")
        return original(self)

    monkeypatch.setattr(Sandbox, step, late)
    sandbox.remove_empty()

    assert (sandbox.current(), sandbox.has_links()) == ("two", True)
    assert (sandbox.repository_path / "folder/file").read_text() == "content"


def test_a_sandbox_goes_alone(root: SandboxRoot) -> None:
    """Removing one sandbox leaves those of the same project, and the last one takes the project's folder along."""
    first, second = Sandbox(root, "project", "first"), Sandbox(root, "project", "second")
    for sandbox in (first, second):
        publish(sandbox, "one")

    first.remove()
    assert [(one.project_key, one.repository_id) for one in sandboxes(root)] == [("project", "second")]

    second.remove()
    assert sandboxes(root) == []
    assert snapshot(root.path) == {marker.MARKER}


def test_the_sweep_removes_what_nobody_knows_and_is_old(sandbox: Sandbox) -> None:
    """Unknown and old goes; known, young, or seen by readers stays."""
    for token in ("unknown", "known", "seen"):
        publish(sandbox, token)
    for token in ("building", "dead"):
        build(sandbox, token)

    assert sandbox.sweep(keep={"known", "building"}, older_than_seconds=60) == 0
    time.sleep(0.05)
    assert sandbox.sweep(keep={"known", "building"}, older_than_seconds=0.04) == 2

    assert sandbox.versions().keys() == {"known", "seen"}
    assert sandbox.incomings().keys() == {"building"}
    assert (sandbox.repository_path / "folder/file").exists()


def test_the_sweep_removes_a_sandbox_without_a_row(sandbox: Sandbox) -> None:
    """A repository that the database forgot leaves nothing, once it is old."""
    publish(sandbox, "one")
    build(sandbox, "two")

    assert sandbox.sweep(keep=(), older_than_seconds=60) == 0
    time.sleep(0.05)
    assert sandbox.sweep(keep=(), older_than_seconds=0.04) == 2

    assert snapshot(sandbox.root.path) == {marker.MARKER}


@pytest.mark.parametrize("user", USERS)
def test_removal_copes_with_hostile_trees(place: Path, user: int | None) -> None:
    """Links out, closed directories, pipes and 3,000 nested folders are removed without touching what they lead to."""
    (place / "precious").mkdir()
    (place / "precious/file").write_text("here")
    (place / "top").mkdir()
    if user is not None:
        os.chown(place / "top", user, user)

    def make_and_remove() -> None:
        top = os.open(place / "top", os.O_DIRECTORY)
        os.mkdir("doomed", dir_fd=top)
        doomed = os.open("doomed", os.O_DIRECTORY, dir_fd=top)
        os.symlink(place / "precious", "link", dir_fd=doomed)
        os.mkfifo("pipe", dir_fd=doomed)
        for closed in (0o000, 0o100, 0o400, 0o500):
            name = f"closed-{closed:o}"
            os.mkdir(name, dir_fd=doomed)
            inner = os.open(name, os.O_DIRECTORY, dir_fd=doomed)
            os.mkdir("inner", dir_fd=inner)
            os.mkdir(".lifted-0", dir_fd=inner)
            os.symlink(place / "precious", "link", dir_fd=inner)
            os.chmod("inner", closed, dir_fd=inner)
            os.chmod(name, closed, dir_fd=doomed)
            os.close(inner)
        os.mkdir(".lifted-1", dir_fd=doomed)
        os.symlink("x", ".lifted-2", dir_fd=doomed)
        folder = os.dup(doomed)
        for _ in range(3_000):
            os.mkdir("d", dir_fd=folder)
            deeper = os.open("d", os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = deeper
        os.close(folder)
        assert removal.remove_tree("doomed", parent=top)
        assert not removal.remove_tree("doomed", parent=top)
        assert os.listdir(top) == []

    as_user(user, make_and_remove)

    assert (place / "precious/file").read_text() == "here"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ENOSPC", "sandbox_full"),
        ("EDQUOT", "sandbox_full"),
        ("ELOOP", "sandbox_refused"),
        ("ENOTDIR", "sandbox_refused"),
        ("EEXIST", "sandbox_refused"),
        ("ENOTEMPTY", "sandbox_refused"),
        ("ENOMEM", "out_of_memory"),
        ("EBADF", "internal_error"),
        *((name, "sandbox_unavailable") for name in ("EROFS", "EACCES", "EPERM", "ENOENT", "EIO", "ESTALE", "EMFILE")),
        *((name, "sandbox_unavailable") for name in ("ENFILE", "EFBIG", "EXDEV", "EBUSY", "ETIMEDOUT", "ENOTCONN")),
    ],
)
def test_each_trouble_of_a_disk_has_its_own_error(name: str, code: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every one is retryable, and the log has the system's own name and the place."""
    number = getattr(errno, name)

    with pytest.raises(CodeReposError) as caught, directories.translate_errors(Path("/the/place")):
        raise OSError(number, os.strerror(number))

    assert caught.value.code == code
    assert caught.value.retryable
    assert f"answers {name} for /the/place" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_read_only_file_system_is_no_danger(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A root that can't be written is unavailable, not unsafe; once it can be, everything goes on."""
    (place / "disk").mkdir()
    options = ["-t", "tmpfs", "-o", "mode=0711"]
    if subprocess.run(["mount", *options, "none", str(place / "disk")], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        root = SandboxRoot(place / "disk/repos")
        root.prepare(ROOT_ID)
        subprocess.run(["mount", "-o", "remount,ro", str(place / "disk")], check=True)
        with pytest.raises(SandboxUnavailable):
            Sandbox(root, "project", "repository").create_incoming("one")
        assert "EROFS" in caplog.text

        subprocess.run(["mount", "-o", "remount,rw", str(place / "disk")], check=True)
        publish(Sandbox(root, "project", "repository"), "one")
    finally:
        subprocess.run(["umount", "-l", str(place / "disk")], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_folders_of_a_lower_layer_are_removed(place: Path) -> None:
    """Overlayfs answers EXDEV when a folder of a lower layer is moved; versions in one go all the same."""
    lower, upper, work, merged = (place / name for name in ("lower", "upper", "work", "merged"))
    for folder in (lower, upper, work, merged):
        folder.mkdir()
    below = SandboxRoot(lower / "repos")
    below.prepare(ROOT_ID)
    publish(Sandbox(below, "project", "repository"), "one")
    publish(Sandbox(below, "project", "gone"), "one")
    (lower / "repos/project/gone" / "/".join(["deep"] * 300)).mkdir(parents=True)
    layers = f"lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off"
    if subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", str(merged)], check=False).returncode:
        pytest.skip("overlayfs can't be mounted here")
    try:
        root = SandboxRoot(merged / "repos")
        root.prepare(ROOT_ID)
        sandbox = Sandbox(root, "project", "repository")
        with pytest.raises(OSError, match="cross-device"):
            os.rename(sandbox.path / "versions/one", sandbox.path / "moved")
        publish(sandbox, "two")
        assert sandbox.discard("one")
        assert sandbox.tokens() == {"two"}
        Sandbox(root, "project", "gone").remove()
        assert [one.repository_id for one in sandboxes(root)] == ["repository"]
    finally:
        subprocess.run(["umount", str(merged)], check=True)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.ENOSPC, errno.EDQUOT])
def test_a_file_system_that_moves_no_folder_at_all(place: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be moved up, folders are removed where they are, also deep ones and closed ones."""
    for name in range(30):
        (place / f"doomed/{name}/a/b/c").mkdir(parents=True)
        (place / f"doomed/{name}/a/file").write_text("here")
        (place / f"doomed/{name}/a").chmod(0o500)
    (place / "doomed" / "/".join(["d"] * 400)).mkdir(parents=True)

    def refuse(*names: str, **folders: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "rename", refuse)
    top = os.open(place, os.O_DIRECTORY)
    assert removal.remove_tree("doomed", parent=top)
    assert os.listdir(top) == []
    os.close(top)


def test_a_full_disk_can_be_swept(root: SandboxRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room even for a name, versions go all the same."""
    sandbox = Sandbox(root, "project", "repository")
    publish(sandbox, "one")
    publish(sandbox, "two")

    def refuse(*names: str, **folders: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", refuse)

    assert sandbox.discard("one")
    assert sandbox.tokens() == {"two"}
    sandbox.remove()
    assert sandboxes(root) == []


def test_a_project_folder_that_goes_meanwhile_is_made_again(
    root: SandboxRoot, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing the last sandbox of a project does not fail a job that begins in another one."""
    make = directories.make_directory
    seen: list[str] = []

    def make_and_lose(name: str, *, parent: int, mode: int) -> None:
        make(name, parent=parent, mode=mode)
        seen.append(name)
        if seen.count("project") < 3 and name == "project":
            os.rmdir(name, dir_fd=parent)

    monkeypatch.setattr("coderepos.sandbox.sandbox.make_directory", make_and_lose)

    assert sandbox.create_incoming("token").is_dir()
    assert seen.count("project") == 3


def test_what_killed_processes_left_in_the_root_goes(root: SandboxRoot) -> None:
    """Empty folders of projects and unfinished markers, once they are old; nothing else."""
    publish(Sandbox(root, "project", "repository"), "one")
    (root.path / "empty").mkdir(mode=0o700)
    (root.path / f"{marker.MARKER}-123-456").write_text("half")
    (root.path / "lost+found").mkdir()
    before = snapshot(root.path)

    root.tidy(older_than_seconds=60)
    assert snapshot(root.path) == before

    root.tidy(older_than_seconds=-1)
    assert snapshot(root.path) == before - {"empty", f"{marker.MARKER}-123-456"}
    assert root.read_marker() == ROOT_ID


def test_many_remove_the_same_tree(place: Path) -> None:
    """A sweep, a job and a second sweep that meet in one tree are done when it is gone."""
    for number in range(300):
        (place / f"doomed/{number}/a/b").mkdir(parents=True)
        (place / f"doomed/{number}/a/b/file").write_text("here")
    children = []
    for _ in range(4):
        if not (child := os.fork()):
            try:
                removal.remove_tree("doomed", parent=os.open(place, os.O_DIRECTORY))
            except OSError:
                os._exit(1)
            os._exit(0)
        children.append(child)

    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert not (place / "doomed").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_file_system_leaves_nothing_half_done(place: Path) -> None:
    """On a real file system without room, a step fails as a whole and removal still works."""
    small = place / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=20,mode=0711", "none", str(small)])
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        root = SandboxRoot(small / "repos")
        root.prepare(ROOT_ID)
        publish(Sandbox(root, "project", "repository"), "one")
        other = Sandbox(root, "project", "other")
        with pytest.raises(SandboxFull):
            [other.create_incoming(f"token-{number}") for number in range(20)]

        other.remove()

        assert [one.repository_id for one in sandboxes(root)] == ["repository"]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_worker_killed_anywhere_leaves_no_half_version(root: SandboxRoot) -> None:
    """Whenever SIGKILL comes, readers see nothing or one whole version, and the next run works."""
    sandbox = Sandbox(root, "project", "repository")
    for round_number in range(40):
        child = os.fork()
        if not child:
            try:
                for number in range(1_000):
                    replaced = sandbox.tokens()
                    publish(sandbox, f"{round_number}-{number}", f"{round_number}-{number}")
                    for token in replaced:
                        sandbox.discard(token)
            finally:
                os._exit(1)
        deadline = time.monotonic() + 0.004 + 0.0007 * round_number
        while time.monotonic() < deadline:
            try:
                seen = (sandbox.repository_path.resolve(strict=True) / "folder/file").read_text()
            except FileNotFoundError:
                continue
            assert seen.partition("-")[0].isdecimal()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

        shown = sandbox.current()
        if shown is not None:
            assert (sandbox.repository_path / "folder/file").read_text() == shown
            assert (sandbox.path / "git/HEAD").exists()
        for token in sandbox.tokens() - {shown}:
            sandbox.discard(token)
        assert sandbox.incomings() == {}
        assert sandbox.versions().keys() == ({shown} if shown else set())

    publish(sandbox, "last")
    for token in sandbox.tokens() - {"last"}:
        sandbox.discard(token)
    assert {name for name in snapshot(sandbox.path) if not name.startswith(".linking-")} == {
        "current", "git", "repository", "versions", "versions/last", "versions/last/git", "versions/last/git/HEAD",
        "versions/last/git/objects", "versions/last/git/objects/pack", "versions/last/tree",
        "versions/last/tree/folder", "versions/last/tree/folder/file",
    }  # fmt: skip


def test_a_process_that_still_writes_is_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that appears between emptying and removing does not stop the removal; one that always does is an error."""
    top = os.open(place, os.O_DIRECTORY)
    (place / "doomed").mkdir()
    appearing = ["late", "later"]
    empty = removal._empty

    def empty_then_write(folder: int) -> None:
        empty(folder)
        if appearing:
            os.close(os.open(appearing.pop(), os.O_CREAT | os.O_WRONLY, dir_fd=folder))

    monkeypatch.setattr(removal, "_empty", empty_then_write)
    assert removal.remove_tree("doomed", parent=top)

    (place / "doomed").mkdir()
    appearing += [f"file-{number}" for number in range(20)]
    with pytest.raises(OSError, match="not empty"):
        removal.remove_tree("doomed", parent=top)
    os.close(top)


def test_a_process_that_still_writes_deep_inside_is_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds for a folder inside, in which a second process may still make a file."""
    (place / "doomed/inner").mkdir(parents=True)
    appearing, rmdir = ["late", "later"], os.rmdir

    def write_then_remove(name: str, *, dir_fd: int) -> None:
        if name == "inner" and appearing:
            os.close(os.open(f"{name}/{appearing.pop()}", os.O_CREAT | os.O_WRONLY, dir_fd=dir_fd))
        rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", write_then_remove)
    top = os.open(place, os.O_DIRECTORY)
    assert removal.remove_tree("doomed", parent=top)
    os.close(top)
    assert not (place / "doomed").exists()


def test_a_flip_that_can_not_be_synced_is_a_flip(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once the link is set nothing may look like a failure, or the caller would discard what readers see."""
    build(sandbox, "one")
    sandbox.finish_incoming("one")

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    sandbox.activate("one")

    assert sandbox.current() == "one"
    assert "can't be synced" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_foreign_marker_is_refused(root: SandboxRoot) -> None:
    """Who can write the marker decides which installation the root belongs to."""
    os.chown(root.path / marker.MARKER, NOBODY, NOBODY)

    with pytest.raises(SandboxRefused):
        root.read_marker()
