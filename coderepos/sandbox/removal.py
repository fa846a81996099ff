"""Removes a tree that hostile data may have shaped: by descriptors, without following links, at any depth.

Others may remove the same tree at the same time: what is gone already is no error.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from typing import Final

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

CANNOT_MOVE: Final = frozenset({errno.EXDEV, errno.EMLINK, errno.ENOSPC, errno.EDQUOT})
"""What stops a folder from being moved, but not from being removed: where it is, or that its new place has no room."""

_ATTEMPTS: Final = 5


def remove_tree(name: str, *, parent: int) -> bool:
    """Remove what ``name`` is in the folder ``parent``, and say whether there was anything.

    Takes no memory of the depth: folders inside are moved up before they are emptied, unless the file system can't do
    that, as overlayfs can't with folders of its lower layers. Removing again what an earlier call left half done is
    fine.

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
                _remove_folder(name, parent)
                break
            except OSError as error:
                # A killed process may still finish its last system call, and somebody else may move folders up.
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
                _unlink(name, top)


def _dissolve(name: str, top: int, fresh_names: Iterator[str]) -> None:
    """Remove the folder ``name`` of ``top``; folders inside it become folders of ``top``."""
    try:
        folder = open_writable(name, parent=top)
    except FileNotFoundError:
        return
    try:
        for inner in _unlink_files(folder):
            if not _lift(inner, folder, top, fresh_names):
                _remove_in_place(inner, folder)
    finally:
        os.close(folder)
    _remove_folder(name, top)


def _lift(name: str, folder: int, top: int, fresh_names: Iterator[str]) -> bool:
    """Move a folder up to ``top``, and say whether the file system can."""
    for fresh_name in fresh_names:
        try:
            # Moving a folder to another parent writes into it, as ".." changes.
            os.close(open_writable(name, parent=folder))
            os.rename(name, fresh_name, src_dir_fd=folder, dst_dir_fd=top)
        except FileNotFoundError:
            break
        except OSError as error:
            if error.errno in CANNOT_MOVE:
                return False
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            break
    return True


def _remove_in_place(name: str, parent: int) -> None:
    """Remove a folder where it is, one descriptor at a time; takes memory of its depth.

    :raises OSError: somebody moved one of the folders meanwhile.
    """
    way: list[tuple[str, list[str], tuple[int, int]]] = []
    folder, todo = os.dup(parent), [name]
    try:
        while todo or way:
            if todo:
                entered = todo.pop()
                with suppress(FileNotFoundError):
                    inner = open_writable(entered, parent=folder)
                    way.append((entered, todo, _identity(folder)))
                    os.close(folder)
                    folder = inner
                    todo = _unlink_files(folder)
            else:
                entered, todo, above = way.pop()
                folder, left = os.open("..", _FOLDER, dir_fd=folder), folder
                os.close(left)
                if _identity(folder) != above:
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
                _remove_folder(entered, folder)
    finally:
        os.close(folder)


def _unlink_files(folder: int) -> list[str]:
    """Remove all that is no folder, and return the names of the folders."""
    folders = []
    for name in os.listdir(folder):
        if _is_folder(name, folder):
            folders.append(name)
        else:
            _unlink(name, folder)
    return folders


def _unlink(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _remove_folder(name: str, parent: int) -> None:
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)


def _identity(folder: int) -> tuple[int, int]:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


def _is_folder(name: str, parent: int) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode)
    except FileNotFoundError:
        return False
