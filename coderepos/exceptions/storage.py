"""Errors of the storage for packs."""

from __future__ import annotations

from coderepos.exceptions.git import GitError


class StorageUnavailable(GitError):
    """The storage for packs does not answer right now; the job is tried again, and the log names the cause."""

    code = "storage_unavailable"
    retryable = True


class StoreDamaged(GitError):
    """The storage for packs returned different bytes from those stored, so the repository is cloned again."""

    code = "store_damaged"
    retryable = True
