"""Says what an error of the file system means to whoever waits for a sandbox."""

from __future__ import annotations

import errno
from typing import Final

from coderepos.exceptions import (
    CodeReposError,
    InternalError,
    OutOfMemory,
    SandboxFull,
    SandboxRefused,
    SandboxUnavailable,
)

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_MEMORY: Final = frozenset({errno.ENOMEM})
_NO_FOLDER: Final = frozenset({errno.ELOOP, errno.ENOTDIR})
_IN_THE_WAY: Final = frozenset({errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY})
_OUR_FAULT: Final = frozenset({errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENAMETOOLONG})


def disk_error(error: OSError) -> CodeReposError:
    """Return the error for what the file system of the sandboxes says; its field ``errno`` names the error.

    What people or time may mend is retryable: a file system that is read-only, away or failing, rights that are
    missing, descriptors that are used up.
    """
    name = errno_name(error)
    if error.errno in _FULL:
        return SandboxFull(errno=name)
    if error.errno in _NO_MEMORY:
        return OutOfMemory(errno=name)
    if error.errno in _NO_FOLDER:
        return SandboxRefused(
            "Where a sandbox directory should be there is a link or a file; the operator has to remove it.", errno=name
        )
    if error.errno in _IN_THE_WAY:
        return SandboxRefused(
            "Something is in the place of a sandbox's own files; the operator has to remove it.", errno=name
        )
    if error.errno is None or error.errno in _OUR_FAULT:
        return InternalError(errno=name)
    return SandboxUnavailable(errno=name)


def errno_name(error: OSError) -> str:
    """Return the symbolic name of the error, such as ``EROFS``."""
    return errno.errorcode.get(error.errno or 0, str(error.errno))
