"""Nobody but root and the worker's user can put another folder in the place of the sandbox root."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from coderepos.exceptions import SandboxRefused
from coderepos.sandbox import ancestors
from coderepos.sandbox.ancestors import require_safe_ancestors
from coderepos.sandbox.root import SandboxRoot
from tests.support.users import NOBODY

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders away")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of this user in the sticky folder for temporary files."""
    folder = Path(tempfile.mkdtemp(prefix="coderepos-", dir="/tmp"))
    yield folder
    subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=False)
    shutil.rmtree(folder)


def refused(path: Path) -> bool:
    """Return whether the root is refused before anything is made."""
    try:
        SandboxRoot(path).prepare("tests")
    except SandboxRefused:
        assert not path.exists()
        return True
    return False


def test_sticky_folder_is_fine(place: Path) -> None:
    """``/tmp`` itself may be written by all, but nobody can rename what is ours in it."""
    place.chmod(0o1777)

    assert not refused(place / "made/on/the/way/repos")
    assert (place / "made/on/the/way").stat().st_mode & 0o022 == 0


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o2777, 0o702])
def test_folder_that_all_may_write(place: Path, mode: int) -> None:
    """At any distance above the root."""
    (place / "open/a/b").mkdir(parents=True)
    (place / "open").chmod(mode)

    assert refused(place / "open/repos")
    assert refused(place / "open/a/b/repos")


@needs_root
def test_folder_of_somebody_else(place: Path) -> None:
    """Also one that is sticky: its owner may rename anything in it."""
    for name, mode in (("foreign", 0o755), ("sticky", 0o1755)):
        (place / name / "ours").mkdir(parents=True)
        os.chown(place / name, NOBODY, NOBODY)
        (place / name).chmod(mode)

        assert refused(place / name / "ours/repos")


def test_folder_of_a_group_with_other_members(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group may write where nobody else is in it, such as the one that many systems make for each user."""
    (place / "shared").mkdir()
    (place / "shared").chmod(0o770)
    own = SimpleNamespace(pw_uid=os.geteuid(), pw_gid=os.getegid())
    other = SimpleNamespace(pw_uid=4_711, pw_gid=os.getegid())
    members: list[str] = []
    monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_mem=members))
    monkeypatch.setattr(pwd, "getpwall", lambda: [own])

    require_safe_ancestors(place / "shared/repos")

    members.append("no-such-user")
    require_safe_ancestors(place / "shared/repos")

    members.append("daemon")
    assert refused(place / "shared/repos")

    members.clear()
    monkeypatch.setattr(pwd, "getpwall", lambda: [own, other])
    assert refused(place / "shared/repos")


def test_group_that_is_not_listed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's volume may belong to a group that the container does not know."""
    monkeypatch.setattr(grp, "getgrgid", lambda number: {}[number])

    assert not ancestors._has_other_members(4_711)


@pytest.mark.parametrize("absolute", [True, False])
def test_links_are_followed_and_judged(place: Path, absolute: bool) -> None:
    """What a link leads through counts, also where the link itself is in a safe place."""
    (place / "open/inner").mkdir(parents=True)
    (place / "open").chmod(0o777)
    (place / "safe/inner").mkdir(parents=True)
    for name in ("open", "safe"):
        target = place / name / "inner"
        (place / f"to-{name}").symlink_to(target if absolute else f"./safe/../{name}/inner")
    (place / "open/back").symlink_to(place / "safe")
    (place / "through").symlink_to("open/back/inner")

    assert refused(place / "to-open/repos")
    assert refused(place / "through/repos")
    assert not refused(place / "to-safe/repos")
    assert (place / "safe/inner/repos").is_dir()


@needs_root
def test_link_of_somebody_else(place: Path) -> None:
    """Its owner may let it lead elsewhere."""
    (place / "inner").mkdir()
    (place / "link").symlink_to("inner")
    os.lchown(place / "link", NOBODY, NOBODY)

    assert refused(place / "link/repos")


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("link"), lambda path: path.write_text("")])
def test_way_that_leads_nowhere(place: Path, make: Callable[[Path], object]) -> None:
    """Links in a circle and files end with our error."""
    make(place / "link")

    assert refused(place / "link/repos")
