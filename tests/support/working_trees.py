"""What working trees are made of, and what is in one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tests.support.packs import LINK, Line, Object, blob


def link(name: bytes, target: bytes) -> tuple[Line, Object]:
    """Return a symbolic link and its object."""
    return Line(LINK, name, blob(target).id), blob(target)


def listing(folder: Path) -> dict[str, str]:
    """Return what is below a folder: links with their target, files with their mode."""
    found = {}
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(at, name)
            mode = path.lstat().st_mode
            found[str(path.relative_to(folder))] = (
                f"-> {path.readlink()}" if stat.S_ISLNK(mode) else stat.filemode(mode)
            )
    return found
