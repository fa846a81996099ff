"""Removes a directory tree that hostile data may have shaped: by descriptors, without following links, at any depth.

Others may remove the same tree at the same time: what is gone already is not an error.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

CANNOT_MOVE: Final = frozenset({errno.EXDEV, errno.EMLINK, errno.ENOSPC, errno.EDQUOT})
"""Errors for a directory that cannot be moved, for its file system or lack of space, but can be removed in place."""

_ATTEMPTS: Final = 5


def remove_tree(name: str, *, parent: int) -> bool:
    """Remove the entry ``name`` of the directory ``parent``, and return whether there was one.

    Memory does not grow with the depth: inner directories are moved up before they are emptied, unless the file system
    can't do that, as overlayfs can't with directories of its lower layers. An interrupted removal can be repeated.

    :param parent: descriptor of the directory.
    :raises OSError: the file system fails.
    """
    try:
        if not _is_directory(name, parent):
            os.unlink(name, dir_fd=parent)
            return True
        top = open_writable(name, parent=parent)
    except FileNotFoundError:
        return False
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _empty(top)
                _remove_directory(name, parent)
                break
            except OSError as error:
                # A killed process may still finish its last system call, and others may move directories up.
                if error.errno != errno.ENOTEMPTY or attempt == _ATTEMPTS:
                    raise
    finally:
        os.close(top)
    return True


def open_writable(name: str, *, parent: int) -> int:
    """Make a directory readable and writable for its owner, and return a descriptor.

    :raises OSError: it is a link, not a directory, or belongs to another user.
    """
    try:
        directory = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        # Not even readable. chmod(2) by way of the descriptor changes this very directory and nothing else.
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        finally:
            os.close(handle)
        directory = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        mode = stat.S_IMODE(os.fstat(directory).st_mode)
        if mode & 0o700 != 0o700:
            os.fchmod(directory, mode | 0o700)
    except BaseException:
        os.close(directory)
        raise
    return directory


def _empty(top: int) -> None:
    # Of this removal alone: no other one may find a directory under a name at which it saw something else, or nothing.
    token = os.urandom(8).hex()
    fresh_names = (f".lifted-{token}-{number}" for number in count())
    while names := os.listdir(top):
        for name in names:
            if _is_directory(name, top):
                _flatten(name, top, fresh_names)
            else:
                _unlink(name, top)


def _flatten(name: str, top: int, fresh_names: Iterator[str]) -> None:
    """Remove the directory ``name`` of ``top``; its inner directories are moved up to ``top``."""
    try:
        directory = open_writable(name, parent=top)
    except FileNotFoundError:
        return
    try:
        for inner in _unlink_files(directory):
            if not _move_up(inner, directory, top, fresh_names):
                _remove_in_place(inner, directory)
    finally:
        os.close(directory)
    _remove_directory(name, top)


def _move_up(name: str, directory: int, top: int, fresh_names: Iterator[str]) -> bool:
    """Move a directory up to ``top``, and return whether the file system can do that."""
    for fresh_name in fresh_names:
        try:
            # Moving a directory to another parent writes into it, as ".." changes.
            os.close(open_writable(name, parent=directory))
            os.rename(name, fresh_name, src_dir_fd=directory, dst_dir_fd=top)
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
    """Remove a directory in place, with one descriptor at a time; memory grows with the depth.

    :raises OSError: another process moved one of the directories meanwhile.
    """
    stack: list[tuple[str, list[str], tuple[int, int]]] = []
    directory, todo = os.dup(parent), [name]
    try:
        while todo or stack:
            if todo:
                entered = todo.pop()
                with suppress(FileNotFoundError):
                    inner = open_writable(entered, parent=directory)
                    stack.append((entered, todo, _identity(directory)))
                    os.close(directory)
                    directory = inner
                    todo = _unlink_files(directory)
            else:
                entered, todo, above = stack.pop()
                directory, left = os.open("..", _DIRECTORY, dir_fd=directory), directory
                os.close(left)
                if _identity(directory) != above:
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
                _remove_directory(entered, directory)
    finally:
        os.close(directory)


def _unlink_files(directory: int) -> list[str]:
    """Remove everything but directories, and return their names."""
    directories = []
    for name in os.listdir(directory):
        if _is_directory(name, directory):
            directories.append(name)
        else:
            _unlink(name, directory)
    return directories


def _unlink(name: str, directory: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _remove_directory(name: str, parent: int) -> None:
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)


def _identity(directory: int) -> tuple[int, int]:
    status = os.fstat(directory)
    return status.st_dev, status.st_ino


def _is_directory(name: str, parent: int) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode)
    except FileNotFoundError:
        return False
