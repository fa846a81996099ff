"""The published versions of one sandbox, in its open folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from coderepos.sandbox.directories import opened_folder
from coderepos.sandbox.removal import CANNOT_MOVE, open_writable, remove_tree

VERSIONS: Final = "versions"
CURRENT: Final = "current"

CONTENT: Final = ("tree", "git")
"""What a version is made of."""

REMOVING: Final = ".removing-"
"""How the names of folders begin that are on their way out."""


def is_whole(token: str, versions: int) -> bool:
    """Return whether a version in the directory ``versions`` has both a working tree and Git data."""
    try:
        for name in CONTENT:
            os.stat(f"{token}/{name}", dir_fd=versions, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def shown_token(folder: int) -> str | None:
    """Return the token of the version that readers see, ``None`` where there is no link."""
    try:
        return os.readlink(CURRENT, dir_fd=folder).removeprefix(f"{VERSIONS}/")
    except FileNotFoundError:
        return None


def remove_versions(tokens: Collection[str], folder: int) -> int:
    """Remove versions by their tokens and return how many there were; the link stays as it is."""
    if not tokens:
        return 0
    removed = 0
    with suppress(FileNotFoundError), opened_folder(VERSIONS, parent=folder) as versions:
        for token in tokens:
            doomed = REMOVING + token
            remove_tree(doomed, parent=folder)
            removed += _moved(token, doomed, versions, folder) or remove_tree(token, parent=versions)
            remove_tree(doomed, parent=folder)
    return removed


def _moved(token: str, doomed: str, versions: int, folder: int) -> bool:
    """Take a version out of its place and return whether that worked; half a version must not look like one."""
    try:
        os.close(open_writable(token, parent=versions))
        os.rename(token, doomed, src_dir_fd=versions, dst_dir_fd=folder)
    except OSError as error:
        # Overlayfs can't move folders of its lower layers, and a full disk may have no room for a name.
        if error.errno != errno.ENOENT and error.errno not in CANNOT_MOVE:
            raise
        return False
    return True
