"""Checks that no other user can replace a directory by changing one of its ancestors."""

from __future__ import annotations

import errno
import grp
import logging
import os
import pwd
import stat
from pathlib import Path
from typing import Final

from coderepos.exceptions import SandboxRefused

logger = logging.getLogger(__name__)

_MAX_LINKS: Final = 40


def require_safe_ancestors(path: Path) -> None:
    """Check every directory and link that leads to ``path``, as far as they exist, but not ``path`` itself.

    Each has to belong to root or to this user, and nobody else may write to it. Sticky directories such as ``/tmp`` may
    be writable for all, since users can rename only their own entries there.

    :param path: absolute.
    :raises SandboxRefused: another user could replace ``path``.
    :raises OSError: there are too many links, or a part of the path is not a directory.
    """
    here = Path("/")
    _require_safe(here, here.stat())
    todo = list(reversed(path.parent.parts[1:]))
    links = 0
    while todo:
        name = todo.pop()
        if name == "..":
            here = here.parent
            continue
        try:
            status = (here / name).lstat()
        except FileNotFoundError:
            return
        _require_safe(here / name, status)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = Path(os.readlink(here / name))
            if target.is_absolute():
                here = Path("/")
            todo += [part for part in reversed(target.parts) if part != "/"]
        else:
            here /= name


def _require_safe(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        logger.error("%s is above the sandbox root and belongs to user %d", path, status.st_uid)
        raise SandboxRefused(
            "A directory above the sandbox root belongs to a user other than root and the worker's; "
            "the operator has to change its owner, or to choose another root."
        )
    if stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_ISVTX and _others_may_write(status):
        logger.error("%s is above the sandbox root and may be written by others", path)
        raise SandboxRefused(
            "Users other than root and the worker's may write to a directory above the sandbox root; "
            "the operator has to run chmod go-w on it, or to choose another root."
        )


def _others_may_write(status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and _has_other_members(status.st_gid)


def _has_other_members(group_id: int) -> bool:
    """Return whether users other than root and this one are in a group, by the machine's user database."""
    user_ids = {user.pw_uid for user in pwd.getpwall() if user.pw_gid == group_id}
    try:
        names = grp.getgrgid(group_id).gr_mem
    except KeyError:
        names = []
    for name in names:
        try:
            user_ids.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            logger.debug("Group %d has the unknown member %s", group_id, name)
    return bool(user_ids - {0, os.geteuid()})
