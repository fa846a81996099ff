"""Every error of the app, one class per stable code.

Superclasses group them and have no code; only classes with a code are raised. This package imports nothing else of the
app, and no Django: the processes that fetch and build need it too.

To add a code, write its class in the module that fits, and add its name below, its HTTP status in
``coderepos/api/statuses.py`` and its row in ``docs/api.md``; tests compare the four.
"""

from __future__ import annotations

from coderepos.exceptions.base import CodeReposError, default_message, error_classes
from coderepos.exceptions.crypto import CryptoError, EncryptionUnavailable, TokenUndecryptable
from coderepos.exceptions.git import (
    CloneTimeout,
    GitError,
    InvalidGitUrl,
    IsolationUnavailable,
    OutOfMemory,
    RefNotFound,
    RepositoryEmpty,
    UnsafeRepository,
    UrlNotAllowed,
)
from coderepos.exceptions.jobs import Cancelled, InternalError, JobError, WorkerLost
from coderepos.exceptions.limits import (
    InflatedTooLarge,
    LimitExceeded,
    ObjectTooLarge,
    PathTooLong,
    PreambleTooLarge,
    RepositoryTooLarge,
    TooManyEntries,
    TooManyObjects,
    TooManyRefs,
    TreeTooDeep,
)
from coderepos.exceptions.remote import (
    LONGEST_WAIT_SECONDS,
    AskedToWait,
    ProxyUnavailable,
    RemoteAuthFailed,
    RemoteCertificate,
    RemoteError,
    RemoteMoved,
    RemoteNotFound,
    RemoteProtocolError,
    RemoteThrottled,
    RemoteTimeout,
    RemoteTooSlow,
    RemoteUnavailable,
    RemoteUnreachable,
)
from coderepos.exceptions.requests import (
    BUSY_SECONDS,
    AlreadyConnected,
    DatabaseBusy,
    InvalidState,
    JobRunning,
    NotFound,
    PermissionDenied,
    RequestError,
    Throttled,
)
from coderepos.exceptions.sandbox import (
    CloneEvicted,
    CloneExpired,
    SandboxFull,
    SandboxMissing,
    SandboxRefused,
    SandboxRootMissing,
    SandboxUnavailable,
    WaitingForDisk,
)

__all__ = [
    "BUSY_SECONDS",
    "LONGEST_WAIT_SECONDS",
    "AlreadyConnected",
    "AskedToWait",
    "Cancelled",
    "CloneEvicted",
    "CloneExpired",
    "CloneTimeout",
    "CodeReposError",
    "CryptoError",
    "DatabaseBusy",
    "EncryptionUnavailable",
    "GitError",
    "InflatedTooLarge",
    "InternalError",
    "InvalidGitUrl",
    "InvalidState",
    "IsolationUnavailable",
    "JobError",
    "JobRunning",
    "LimitExceeded",
    "NotFound",
    "ObjectTooLarge",
    "OutOfMemory",
    "PathTooLong",
    "PermissionDenied",
    "PreambleTooLarge",
    "ProxyUnavailable",
    "RefNotFound",
    "RemoteAuthFailed",
    "RemoteCertificate",
    "RemoteError",
    "RemoteMoved",
    "RemoteNotFound",
    "RemoteProtocolError",
    "RemoteThrottled",
    "RemoteTimeout",
    "RemoteTooSlow",
    "RemoteUnavailable",
    "RemoteUnreachable",
    "RepositoryEmpty",
    "RepositoryTooLarge",
    "RequestError",
    "SandboxFull",
    "SandboxMissing",
    "SandboxRefused",
    "SandboxRootMissing",
    "SandboxUnavailable",
    "Throttled",
    "TokenUndecryptable",
    "TooManyEntries",
    "TooManyObjects",
    "TooManyRefs",
    "TreeTooDeep",
    "UnsafeRepository",
    "UrlNotAllowed",
    "WaitingForDisk",
    "WorkerLost",
    "default_message",
    "error_classes",
]
