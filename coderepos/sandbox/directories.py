"""Folders and links by descriptor, as sandboxes need them: owner checked, no link followed, errors that are ours."""

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

DRAFT: Final = ".linking-"
"""How names of links begin that are not in their place yet."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE: Final = 0o022


@contextmanager
def opened_folder(name: str, *, parent: int | None = None) -> Iterator[int]:
    """Open a folder for the length of a ``with`` block.

    :raises SandboxRefused: it is foreign, or writable by others.
    :raises OSError: it is a link, no folder, or not there.
    """
    folder = os.open(name, _FOLDER, dir_fd=parent)
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid():
            raise SandboxRefused(
                "A sandbox folder belongs to another user than the worker's; the operator has to give it to that user."
            )
        if status.st_mode & _OTHERS_WRITE:
            raise SandboxRefused(
                "Others than the worker's user may write to a sandbox folder; the operator has to run chmod go-w on it."
            )
        yield folder
    finally:
        os.close(folder)


@contextmanager
def translated(place: Path) -> Iterator[None]:
    """Turn what the file system says into our errors, and log it by name.

    :param place: what is worked on, for the log.
    :raises SandboxFull: no room, or no quota.
    :raises SandboxRefused: something is in the way.
    :raises SandboxUnavailable: the file system is away, read-only, failing, or refuses access.
    :raises OutOfMemory: the kernel has none left.
    :raises InternalError: we asked for something that makes no sense.
    """
    try:
        yield
    except OSError as error:
        logger.error("The file system answers %s for %s: %s", errno_name(error), place, error.strerror)
        raise disk_error(error) from error
    except (SandboxRefused, SandboxRootMissing) as error:
        logger.error("%s is refused: %s", place, error.message)
        raise


def make_folder(name: str, *, parent: int, mode: int) -> None:
    """Create a folder unless it is there, and see to its mode; another job may do the same at this moment."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        os.fsync(parent)
    with opened_folder(name, parent=parent) as folder:
        set_mode(folder, mode)


def set_mode(folder: int, mode: int) -> None:
    """Give an open folder its mode, where it has another."""
    if stat.S_IMODE(os.fstat(folder).st_mode) != mode:
        os.fchmod(folder, mode)


def point_link(name: str, target: str, folder: int) -> None:
    """Let the link ``name`` lead to ``target``, in one step.

    :raises FileExistsError: there is something under this name that is no link.
    """
    try:
        if os.readlink(name, dir_fd=folder) == target:
            return
    except FileNotFoundError:
        logger.debug("The link %s is made for the first time", name)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        raise
    # Nobody else's: a process that was frozen here may wake while another one points the same link.
    draft = f"{DRAFT}{name}-{os.urandom(8).hex()}"
    os.symlink(target, draft, dir_fd=folder)
    os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)


def ages_seconds(folder: int, inside: str | None = None) -> dict[str, float]:
    """Return the age in seconds of all that is in a folder, or in a folder inside it, by name."""
    with ExitStack() as opened:
        if inside is not None:
            try:
                folder = opened.enter_context(opened_folder(inside, parent=folder))
            except FileNotFoundError:
                return {}
        ages = {}
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):
                ages[name] = age_seconds(os.lstat(name, dir_fd=folder))
        return ages


def age_seconds(status: os.stat_result) -> float:
    """Return how long ago something was changed or moved."""
    return time.time() - max(status.st_mtime, status.st_ctime)


def sync_at_best(folder: int) -> None:
    """Ask for a flipped link to reach the disk; it is flipped already, so a refusal must not look like a failure."""
    try:
        os.fsync(folder)
    except OSError as error:
        logger.warning("A sandbox's folder can't be synced: %s", error.strerror)


def remove_if_empty(name: str, parent: int) -> None:
    """Remove a folder that holds nothing; one that does, or that is gone, is left as it is."""
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise
