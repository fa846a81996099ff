"""Removes a tree that hostile data may have shaped: by descriptors, without following links, at any depth."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from itertools import count
from typing import Final

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_ATTEMPTS: Final = 5


def remove_tree(name: str, *, parent: int) -> bool:
    """Remove what ``name`` is in the folder ``parent``, and say whether there was anything.

    Takes no memory of the depth: folders inside are moved up before they are emptied. Removing again what an earlier
    call left half done is fine.

    :param parent: descriptor of the folder.
    :raises OSError: the file system refuses.
    """
    try:
        if not _is_folder(name, parent):
            os.unlink(name, dir_fd=parent)
            return True
        top = open_writable(name, parent=parent)
    except FileNotFoundError:
        return False
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _empty(top)
                os.rmdir(name, dir_fd=parent)
                break
            except OSError as error:
                # A killed process may still finish its last system call.
                if error.errno != errno.ENOTEMPTY or attempt == _ATTEMPTS:
                    raise
    finally:
        os.close(top)
    return True


def open_writable(name: str, *, parent: int) -> int:
    """Return a descriptor of a folder of ours that its owner may change from now on.

    :raises OSError: it is a link, no folder, or not ours.
    """
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        # Not even readable. chmod(2) on the descriptor's own link reaches this very folder and nothing else.
        place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{place}", 0o700)
        finally:
            os.close(place)
        folder = os.open(name, _FOLDER, dir_fd=parent)
    try:
        mode = stat.S_IMODE(os.fstat(folder).st_mode)
        if mode & 0o700 != 0o700:
            os.fchmod(folder, mode | 0o700)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _empty(top: int) -> None:
    fresh_names = (f".lifted-{number}" for number in count())
    while names := os.listdir(top):
        for name in names:
            if _is_folder(name, top):
                _dissolve(name, top, fresh_names)
            else:
                os.unlink(name, dir_fd=top)


def _dissolve(name: str, top: int, fresh_names: Iterator[str]) -> None:
    """Remove the folder ``name`` of ``top``; folders inside it become folders of ``top``."""
    folder = open_writable(name, parent=top)
    try:
        for inner in os.listdir(folder):
            if _is_folder(inner, folder):
                # Moving a folder to another parent writes into it, as ".." changes.
                os.close(open_writable(inner, parent=folder))
                _lift(inner, folder, top, fresh_names)
            else:
                os.unlink(inner, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _lift(name: str, folder: int, top: int, fresh_names: Iterator[str]) -> None:
    for fresh_name in fresh_names:
        try:
            os.rename(name, fresh_name, src_dir_fd=folder, dst_dir_fd=top)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode)
