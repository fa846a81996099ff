"""Errors of the disk for sandboxes."""

from __future__ import annotations

from coderepos.exceptions.git import GitError


class SandboxFull(GitError):
    """The disk for sandboxes is full; the clone is tried again, and the operator has to free space."""

    code = "sandbox_full"
    retryable = True


class WaitingForDisk(GitError):
    """The disk for sandboxes has no room for this clone now; it starts by itself when there is some."""

    code = "waiting_for_disk"
    retryable = True


class SandboxRefused(GitError):
    """The sandbox directory is not safe to use: it is a link, belongs to somebody else, or to another installation."""

    code = "sandbox_refused"
    retryable = True


class SandboxUnavailable(GitError):
    """The disk for sandboxes cannot be used right now; the clone is tried again, and the log names the cause."""

    code = "sandbox_unavailable"
    retryable = True


class SandboxRootMissing(GitError):
    """The disk of the sandbox root is not mounted, or the root was emptied or moved; the operator has to mount it
    again, or to run manage.py coderepos_adopt_root where that was on purpose.
    """  # noqa: D205  one sentence, since it is the public message

    code = "sandbox_root_missing"
    retryable = True


class CloneEvicted(GitError):
    """The clone was removed to make room on the disk; clone the repository again to get it back."""

    code = "evicted"


class CloneExpired(GitError):
    """The clone was removed by the rules of this site; clone the repository again to get it back."""

    code = "expired"


class SandboxMissing(GitError):
    """The clone is no longer on the disk; clone the repository again."""

    code = "sandbox_missing"
    retryable = True
