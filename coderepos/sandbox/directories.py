"""Operations on directories by descriptor: the owner is checked, no link is followed, errors are translated."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from coderepos.disk_errors import disk_error, errno_name
from coderepos.exceptions import SandboxRefused, SandboxRootMissing

logger = logging.getLogger(__name__)

LINK_DRAFT: Final = ".linking-"
"""Prefix of links that are not renamed to their final name yet."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE: Final = 0o022


@contextmanager
def open_directory(name: str, *, parent: int | None = None) -> Iterator[int]:
    """Open a directory for the length of a ``with`` block.

    :raises SandboxRefused: it belongs to another user, or others may write to it.
    :raises OSError: it is a link, not a directory, or not there.
    """
    directory = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        status = os.fstat(directory)
        if status.st_uid != os.geteuid():
            raise SandboxRefused(
                "A sandbox directory belongs to another user than the worker's; the operator has to change its owner."
            )
        if status.st_mode & _OTHERS_WRITE:
            raise SandboxRefused(
                "Users other than the worker's may write to a sandbox directory; the operator has to run chmod go-w."
            )
        yield directory
    finally:
        os.close(directory)


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into ours, and log them.

    :param path: what is worked on, for the log.
    :raises SandboxFull: no room, or no quota.
    :raises SandboxRefused: something is in the way.
    :raises SandboxUnavailable: the file system is away, read-only, failing, or refuses access.
    :raises OutOfMemory: the kernel has none left.
    :raises InternalError: the call itself was invalid.
    """
    try:
        yield
    except OSError as error:
        logger.error("The file system answers %s for %s: %s", errno_name(error), path, error.strerror)
        raise disk_error(error) from error
    except (SandboxRefused, SandboxRootMissing) as error:
        logger.error("%s is refused: %s", path, error.message)
        raise


def make_directory(name: str, *, parent: int, mode: int) -> None:
    """Create a directory unless it exists, and set its mode; other jobs may do the same at the same time."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        os.fsync(parent)
    with open_directory(name, parent=parent) as directory:
        set_mode(directory, mode)


def set_mode(directory: int, mode: int) -> None:
    """Set the mode of an open directory if it differs."""
    if stat.S_IMODE(os.fstat(directory).st_mode) != mode:
        os.fchmod(directory, mode)


def point_link(name: str, target: str, directory: int) -> None:
    """Point the link ``name`` to ``target``, atomically.

    :raises FileExistsError: something with this name is not a link.
    """
    try:
        if os.readlink(name, dir_fd=directory) == target:
            return
    except FileNotFoundError:
        logger.debug("The link %s is created for the first time", name)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        raise
    # A unique name: a process that was frozen here may wake while another one sets the same link.
    temporary_name = f"{LINK_DRAFT}{name}-{os.urandom(8).hex()}"
    os.symlink(target, temporary_name, dir_fd=directory)
    os.rename(temporary_name, name, src_dir_fd=directory, dst_dir_fd=directory)


def remove_link(name: str, target: str, directory: int) -> None:
    """Remove the link ``name`` if it leads to ``target``; one that another process sets meanwhile stays."""
    try:
        if os.readlink(name, dir_fd=directory) != target:
            return
        moved_name = f"{LINK_DRAFT}{name}-{os.urandom(8).hex()}"
        os.rename(name, moved_name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileNotFoundError:
        return
    if os.readlink(moved_name, dir_fd=directory) != target:
        # Replaced between the two calls. A second name, unlike a rename, never takes the place of a newer link.
        with suppress(FileExistsError):
            os.link(moved_name, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    os.unlink(moved_name, dir_fd=directory)


def ages_seconds(directory: int, inside: str | None = None) -> dict[str, float]:
    """Return the age in seconds of every entry of a directory, or of a directory inside it, by name."""
    with ExitStack() as opened:
        if inside is not None:
            try:
                directory = opened.enter_context(open_directory(inside, parent=directory))
            except FileNotFoundError:
                return {}
        ages = {}
        for name in os.listdir(directory):
            with suppress(FileNotFoundError):
                ages[name] = age_seconds(os.lstat(name, dir_fd=directory))
        return ages


def age_seconds(status: os.stat_result) -> float:
    """Return how many seconds ago something was changed or moved."""
    return time.time() - max(status.st_mtime, status.st_ctime)


def sync_if_possible(directory: int) -> None:
    """Sync a directory whose link was set; the link is set already, so an error is only logged."""
    try:
        os.fsync(directory)
    except OSError as error:
        logger.warning("A sandbox's directory can't be synced: %s", error.strerror)


def remove_if_empty(name: str, parent: int) -> None:
    """Remove a directory if it is empty; one that is gone already is fine."""
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise
