"""The published versions of one sandbox: which is current, whether it is complete, and how to remove one."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from coderepos.sandbox.directories import open_directory
from coderepos.sandbox.removal import CANNOT_MOVE, open_writable, remove_tree

VERSIONS: Final = "versions"
CURRENT: Final = "current"

CONTENT: Final = ("tree", "git")
"""The directories of a version."""

REMOVING: Final = ".removing-"
"""Prefix of directories that are being removed."""


def is_complete(token: str, versions: int) -> bool:
    """Return whether a version in the directory ``versions`` has both a working tree and Git data."""
    try:
        for name in CONTENT:
            os.stat(f"{token}/{name}", dir_fd=versions, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def current_token(directory: int) -> str | None:
    """Return the token of the version that readers see, or ``None`` without one."""
    try:
        return os.readlink(CURRENT, dir_fd=directory).removeprefix(f"{VERSIONS}/")
    except FileNotFoundError:
        return None


def remove_versions(tokens: Collection[str], directory: int) -> int:
    """Remove versions by their tokens and return how many there were; the link stays as it is."""
    if not tokens:
        return 0
    removed = 0
    with suppress(FileNotFoundError), open_directory(VERSIONS, parent=directory) as versions:
        for token in tokens:
            removed_name = REMOVING + token
            remove_tree(removed_name, parent=directory)
            removed += _moved(token, removed_name, versions, directory) or remove_tree(token, parent=versions)
            remove_tree(removed_name, parent=directory)
    return removed


def _moved(token: str, removed_name: str, versions: int, directory: int) -> bool:
    """Rename a version, so that nobody takes it for one while it is removed; return whether that worked."""
    try:
        os.close(open_writable(token, parent=versions))
        os.rename(token, removed_name, src_dir_fd=versions, dst_dir_fd=directory)
    except OSError as error:
        # Overlayfs can't move directories of its lower layers, and a full disk may have no room for a name.
        if error.errno != errno.ENOENT and error.errno not in CANNOT_MOVE:
            raise
        return False
    return True
