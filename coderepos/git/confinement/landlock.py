"""Landlock: what this process may still do with files, TCP and other processes.

Rules can only be added, never lifted, and they bind root as well. See :manpage:`landlock(7)` and
https://docs.kernel.org/userspace-api/landlock.html; the names below are those of ``linux/landlock.h``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from coderepos.git.confinement import linux

# The same on every architecture, as all calls since Linux 5.0 are.
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446

_GET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_RULE_NET_PORT: Final = 2
_NET_CONNECT_TCP: Final = 2
_NET_ALL: Final = 3
_SCOPE_ALL: Final = 3


# Rights on files and directories, LANDLOCK_ACCESS_FS_*.
_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE_DIR: Final = 1 << 4
_REMOVE_FILE: Final = 1 << 5
_MAKE_DIR: Final = 1 << 7
_MAKE_REG: Final = 1 << 8
_MAKE_SYM: Final = 1 << 12
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_IOCTL_DEV: Final = 1 << 15

READ: Final = _READ_FILE | _READ_DIR
"""Reading files and listing directories."""

WRITE: Final = READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER
"""Making, writing, moving and removing files, directories and links too; no truncation, devices, sockets or pipes."""

_OF_A_FILE: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What stays allowed; everything else that the kernel's ABI can name is refused."""

    read: tuple[str, ...] = ()
    """Files, and directories with all below them, that may be read. Those that do not exist are left out."""

    write: tuple[str, ...] = ()
    """Directories below which files, directories and links may be made, changed and removed too."""

    connect_ports: tuple[int, ...] = ()
    """TCP ports that may be connected to, from ABI 4; none may be bound."""


def abi() -> int:
    """Return the version of Landlock that the kernel offers.

    0 where it was not built in, not booted with, or is kept away by the filter of a container.
    """
    version = linux.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_GET_VERSION))
    return max(version, 0)


def restrict(rules: Rules) -> int:
    """Bind this thread and all that it starts by ``rules``, and return the ABI that they were made for.

    0 says that the kernel has no Landlock and that nothing was bound. ``no_new_privs`` must be set already, and
    no second thread may run.

    :raises OSError: the kernel has Landlock and refused these rules.
    """
    version = abi()
    if not version:
        return 0
    handled = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
    attributes = struct.pack("=Q", handled)
    if version >= 4:
        attributes += struct.pack("=Q", _NET_ALL)
    if version >= 6:
        attributes += struct.pack("=Q", _SCOPE_ALL)
    ruleset = _checked(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        _allow(ruleset, rules.read, READ & handled)
        _allow(ruleset, rules.write, WRITE & handled)
        for port in rules.connect_ports if version >= 4 else ():
            _add(ruleset, _RULE_NET_PORT, struct.pack("=QQ", _NET_CONNECT_TCP, port))
        _checked(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, paths: Iterable[str], access: int) -> None:
    for path in paths:
        try:
            # Follows links on purpose: the rule is for what the path leads to now.
            target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            # A directory that this user can't reach can't be read later either, with or without a rule.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP):
                continue
            raise
        try:
            is_directory = stat.S_ISDIR(os.fstat(target).st_mode)
            granted = access if is_directory else access & _OF_A_FILE
            _add(ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", granted, target))
        finally:
            os.close(target)


def _add(ruleset: int, kind: int, attributes: bytes) -> None:
    _checked(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(kind), attributes, ctypes.c_uint32(0))


def _checked(number: int, *arguments: object) -> int:
    result = linux.syscall(number, *arguments)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
