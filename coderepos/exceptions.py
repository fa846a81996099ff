"""Every error of the app, one class per stable code.

::

    CodeReposError
    ├── CryptoError
    │   ├── EncryptionUnavailable      encryption_unavailable
    │   └── TokenUndecryptable         token_undecryptable
    ├── GitError
    │   ├── InvalidGitUrl              invalid_git_url
    │   ├── UrlNotAllowed              url_not_allowed
    │   ├── RemoteAuthFailed           remote_auth_failed
    │   ├── RemoteNotFound             remote_not_found
    │   ├── RefNotFound                ref_not_found
    │   ├── RepositoryEmpty            repository_empty
    │   ├── RemoteMoved                remote_moved
    │   ├── RemoteUnreachable          remote_unreachable
    │   ├── RemoteCertificate          remote_certificate
    │   ├── AskedToWait
    │   │   ├── RemoteThrottled        remote_throttled
    │   │   └── RemoteUnavailable      remote_unavailable
    │   ├── ProxyUnavailable           proxy_unavailable
    │   ├── RemoteProtocolError        remote_protocol_error
    │   ├── RemoteError                remote_error
    │   ├── RemoteTimeout              remote_timeout
    │   ├── CloneTimeout               clone_timeout
    │   ├── UnsafeRepository           unsafe_repository
    │   ├── SandboxFull                sandbox_full
    │   ├── SandboxRefused             sandbox_refused
    │   ├── SandboxUnavailable         sandbox_unavailable
    │   ├── SandboxRootMissing         sandbox_root_missing
    │   ├── SandboxMissing             sandbox_missing
    │   ├── OutOfMemory                out_of_memory
    │   ├── IsolationUnavailable       isolation_unavailable
    │   └── LimitExceeded
    │       ├── RepositoryTooLarge     repository_too_large
    │       ├── PreambleTooLarge       preamble_too_large
    │       ├── TooManyRefs            too_many_refs
    │       ├── TooManyObjects         too_many_objects
    │       ├── ObjectTooLarge         object_too_large
    │       ├── InflatedTooLarge       inflated_too_large
    │       ├── TooManyEntries         too_many_entries
    │       ├── TreeTooDeep            tree_too_deep
    │       └── PathTooLong            path_too_long
    ├── JobError
    │   ├── Cancelled                  cancelled
    │   ├── WorkerLost                 worker_lost
    │   └── InternalError              internal_error
    └── RequestError
        ├── NotFound                   not_found
        ├── PermissionDenied           permission_denied
        ├── AlreadyConnected           already_connected
        ├── JobRunning                 job_running
        ├── InvalidState               invalid_state
        └── Throttled                  throttled

Only classes with a code are raised. This module imports nothing of the app: the processes without Django need it too.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes 7 ms, which every clone would wait for
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import ClassVar, Final

LONGEST_WAIT_SECONDS: Final = 3_600
"""Longest wait that a Git host's ``Retry-After`` is granted."""


class CodeReposError(Exception):
    """Superclass of all errors of the app; never raised itself.

    The first sentence of a subclass's docstring is its public message. Anything given as ``message`` is shown to
    users and stored: it must hold no secret and no unredacted remote text.

    :param message: sentence that replaces the default one.
    :param fields: further JSON values for the body of an error answer, such as ``limit_mb``. A ``reason`` that is one
        of :attr:`sentences` replaces the default message too.
    """

    code: ClassVar[str]
    """Stable snake-case name of the error; part of the API, never renamed."""

    retryable: ClassVar[bool] = False
    """Whether the same request is worth another try without any change by the user."""

    sentences: ClassVar[Mapping[str, str]] = {}
    """Messages by ``reason``: a child process tells the reason alone, since no text of its own is believed."""

    def __init__(self, message: str | None = None, **fields: object) -> None:
        self.message: Final = message or self.sentences.get(str(fields.get("reason"))) or default_message(type(self))
        self.fields: Final = fields
        super().__init__(self.message)


def default_message(kind: type[CodeReposError]) -> str:
    """Return the first paragraph of the docstring of ``kind`` on one line."""
    return " ".join((kind.__doc__ or kind.__name__).split("\n\n", 1)[0].split())


class CryptoError(CodeReposError):
    """Superclass of errors of keys and sealed tokens."""


class EncryptionUnavailable(CryptoError):
    """The encryption key is not available right now, so nothing was stored; try again later."""

    code = "encryption_unavailable"
    retryable = True


class TokenUndecryptable(CryptoError):
    """The stored access token cannot be opened: it, its key or the host of its URL was changed; replace the token."""

    code = "token_undecryptable"


class GitError(CodeReposError):
    """Superclass of errors of remotes, packs, trees and sandboxes."""


class InvalidGitUrl(GitError):
    """This is not a usable Git URL; give one like https://host/owner/repository.git, without user name or password."""

    code = "invalid_git_url"


class UrlNotAllowed(GitError):
    """This installation does not allow repositories from this host, port or scheme; ask its operator."""

    code = "url_not_allowed"


class RemoteAuthFailed(GitError):
    """The Git host refused access; check the URL, and that the token is valid and may read this repository."""

    code = "remote_auth_failed"
    sentences = {
        "sign-in page": "The Git host answered the token with a web page, as hosts do for one that is not valid or has"
        " expired; check the URL, and that the token is valid and may read this repository.",
        "redirect": "The Git host answered the token with a redirect to what is not a repository, such as its page for"
        " signing in; check the URL, and that the token is valid and may read this repository.",
    }


class RemoteNotFound(GitError):
    """The Git host knows no such repository, or the token may not see it; check the URL and the token."""

    code = "remote_not_found"


class RefNotFound(GitError):
    """The repository has no such branch, tag or commit; check the ref.

    :param names: names that exist, which the message lists.
    """

    code = "ref_not_found"
    sentences = {
        "default branch": "The repository's default branch does not exist; name a branch",
        "only tags": "The repository has tags but no branch; name a tag",
        "only other refs": "The repository has neither branches nor tags; name a ref in full",
        "no ref name": "Git allows no branch or tag of this name; check the ref",
        "short id": "A commit is found by its full id alone; give all 40 digits of it, or a branch or tag",
        "hidden commit": "The Git host gives away only commits that a branch or tag names; name a branch or tag",
        "no commit": "What the ref names is not a commit; name a branch, a commit, or a tag of a commit",
    }

    def __init__(self, message: str | None = None, *, names: Sequence[str] = (), **fields: object) -> None:
        sentence = self.sentences.get(str(fields.get("reason")))
        if names:
            fields["names"] = list(names)
        if sentence:
            message = message or f"{sentence}{', such as ' if names else ''}{', '.join(names)}."
        super().__init__(message, **fields)


class RepositoryEmpty(GitError):
    """The repository has no commit yet; push one and try again."""

    code = "repository_empty"


class RemoteMoved(GitError):
    """The repository has moved to another URL of the same host; find it there, and connect that one.

    :param moved_to: the new URL, or its path where the origin goes without saying.
    """

    code = "remote_moved"

    def __init__(self, message: str | None = None, *, moved_to: str | None = None, **fields: object) -> None:
        if moved_to is not None:
            message = message or f"The repository has moved; connect {moved_to} instead."
            fields |= {"moved_to": moved_to}
        super().__init__(message, **fields)


class RemoteUnreachable(GitError):
    """The Git host cannot be reached; check the URL, or try again later."""

    code = "remote_unreachable"
    retryable = True
    sentences = {
        "server error": "The Git host answered with an error of its own; try again later.",
        "proxy": "The proxy of this installation cannot reach the Git host, or may not; check the URL, or try later.",
    }


class RemoteCertificate(GitError):
    """The certificate of the Git host cannot be verified; check the URL, or ask the operator of this installation."""

    code = "remote_certificate"
    retryable = True
    sentences = {
        "expired": "The certificate of the Git host has expired; whoever runs the host has to renew it.",
        "other name": "The certificate of the Git host is for another name; check the URL.",
        "unknown authority": "The certificate of the Git host is from an authority that this installation does not"
        " know; its operator can add it with GIT_CA_BUNDLE.",
        "trust store": "The certificates that this installation trusts cannot be read; its operator has to check"
        " GIT_CA_BUNDLE.",
    }


class AskedToWait(GitError):
    """Superclass of answers with which a Git host asks for patience.

    :param retry_after_seconds: how long it asks to wait. What is not a positive whole number counts as not said, and
        :data:`LONGEST_WAIT_SECONDS` is the most that is granted.
    """

    retryable = True
    sentence: ClassVar[str]
    """Message with the seconds, used where they are known."""

    def __init__(self, message: str | None = None, *, retry_after_seconds: object = None, **fields: object) -> None:
        self.retry_after_seconds = 0
        """How long to wait; 0 where nothing was said."""
        if type(retry_after_seconds) is int and retry_after_seconds > 0:
            self.retry_after_seconds = min(retry_after_seconds, LONGEST_WAIT_SECONDS)
            message = message or self.sentence.format(seconds=self.retry_after_seconds)
            fields |= {"retry_after_seconds": self.retry_after_seconds}
        super().__init__(message, **fields)


class RemoteThrottled(AskedToWait):
    """The Git host had too many requests lately; try again later."""

    code = "remote_throttled"
    sentence = "The Git host had too many requests lately; it asks to wait {seconds} s before the next one."


class RemoteUnavailable(AskedToWait):
    """The Git host is not available right now; try again later."""

    code = "remote_unavailable"
    sentence = "The Git host is not available right now; it asks to try again in {seconds} s."


class ProxyUnavailable(GitError):
    """The proxy of this installation cannot be used; ask its operator."""

    code = "proxy_unavailable"
    retryable = True
    sentences = {
        "proxy credentials": "The proxy of this installation refused the credentials that are set for it; ask its"
        " operator.",
    }


class RemoteProtocolError(GitError):
    """The answer is not one of a Git server that this app understands; check the URL."""

    code = "remote_protocol_error"
    sentences = {
        "redirect": "The Git host redirects to what is not a repository, such as its page for signing in; check the"
        " URL, and give a token where the repository is private.",
        "redirect to another host": "The Git host redirects to another host, where neither request nor token follows;"
        " find the new URL of the repository, and connect that one.",
        "web page": "The Git host answered with a web page; check the URL, and give a token where the repository is"
        " private.",
        "SHA-256 object ids are not supported": "The repository has SHA-256 object ids, which this app does not read.",
        "no shallow clones": "The Git host cannot clone at a depth; connect the repository without one.",
    }


class RemoteError(GitError):
    """The Git host reported an error; check the URL and the rights of the token, or try again later.

    :param remote_text: what it said: masked, printable, and at most 200 characters.
    """

    code = "remote_error"
    retryable = True

    def __init__(self, message: str | None = None, *, remote_text: str = "", **fields: object) -> None:
        if remote_text:
            message = message or f"The Git host reported an error: {remote_text}"
            fields["remote_text"] = remote_text
        super().__init__(message, **fields)


class RemoteTimeout(GitError):
    """The Git host did not answer in time; try again later."""

    code = "remote_timeout"
    retryable = True


class CloneTimeout(GitError):
    """The clone did not finish in time; it is tried again, and a smaller depth makes it faster."""

    code = "clone_timeout"
    retryable = True


class UnsafeRepository(GitError):
    """The repository holds a name or an object that is not safe to check out; git fsck --full names it."""

    code = "unsafe_repository"


class SandboxFull(GitError):
    """The disk for sandboxes is full; it is tried again, and the operator has to free space."""

    code = "sandbox_full"
    retryable = True


class SandboxRefused(GitError):
    """The sandbox folder is not safe to use: it is a link, belongs to somebody else, or to another installation."""

    code = "sandbox_refused"
    retryable = True


class SandboxUnavailable(GitError):
    """The disk for sandboxes cannot be used right now; it is tried again, and the log names the cause."""

    code = "sandbox_unavailable"
    retryable = True


class SandboxRootMissing(GitError):
    """The disk of the sandbox root is not mounted, or the root was emptied or moved.

    The operator has to mount it again, or to run ``manage.py coderepos_adopt_root`` where that was on purpose.
    """

    code = "sandbox_root_missing"
    retryable = True


class SandboxMissing(GitError):
    """The clone is no longer on the disk; clone the repository again."""

    code = "sandbox_missing"
    retryable = True


class OutOfMemory(GitError):
    """The worker ran out of memory; it is tried again, and what always needs too much has to be smaller."""

    code = "out_of_memory"
    retryable = True


class IsolationUnavailable(GitError):
    """This machine cannot isolate the clone as strictly as the settings demand; ask the operator."""

    code = "isolation_unavailable"
    retryable = True


class LimitExceeded(GitError):
    """Superclass of limits that a repository passed; each names its figure and its limit.

    :param figure: what was counted when it was noticed; the true figure may be larger.
    :param limit: the bound, in the same unit.
    """

    sentence: ClassVar[str]
    """Message with both figures, used where they are known."""

    def __init__(
        self, message: str | None = None, *, figure: int | None = None, limit: int | None = None, **fields: object
    ) -> None:
        if figure is not None and limit is not None:
            message = message or self.sentence.format(figure=figure, limit=limit)
            fields |= {"figure": figure, "limit": limit}
        super().__init__(message, **fields)


class RepositoryTooLarge(LimitExceeded):
    """The repository is larger than this installation allows; a smaller depth leaves out history."""

    code = "repository_too_large"
    sentence = (
        "The repository takes at least {figure:,} bytes; the limit is {limit:,}. A smaller depth leaves out history."
    )

    @classmethod
    def of(cls, size_bytes: int, limit_bytes: int, *, at_least: bool = False) -> RepositoryTooLarge:
        """Return the error with its figures in MB, as the answer of a connect call shows them.

        :param at_least: whether the count was stopped early, so that the true size is larger.
        """
        size_mb, limit_mb = -(-size_bytes // 10**5) / 10, limit_bytes / 10**6
        return cls(
            f"Repository size {'at least ' if at_least else ''}{size_mb}MB exceeds limit of {limit_mb:g}MB",
            estimated_size_mb=size_mb,
            limit_mb=int(limit_mb) if limit_mb.is_integer() else limit_mb,
        )


class PreambleTooLarge(LimitExceeded):
    """The Git host sends more before the repository's data than this installation allows."""

    code = "preamble_too_large"
    sentence = "The Git host sent at least {figure:,} bytes before the repository's data; the limit is {limit:,}."


class TooManyRefs(LimitExceeded):
    """The repository advertises more refs than this installation allows."""

    code = "too_many_refs"
    sentence = "The repository advertises at least {figure:,} refs; the limit is {limit:,}."


class TooManyObjects(LimitExceeded):
    """The repository has more objects than this installation allows; a smaller depth leaves out history."""

    code = "too_many_objects"
    sentence = (
        "The repository has at least {figure:,} objects; the limit is {limit:,}. A smaller depth leaves out history."
    )


class ObjectTooLarge(LimitExceeded):
    """One object of the repository is larger than this installation allows."""

    code = "object_too_large"
    sentence = "One object of the repository has at least {figure:,} bytes; the limit is {limit:,}."


class InflatedTooLarge(LimitExceeded):
    """The repository inflates to more bytes than this installation allows."""

    code = "inflated_too_large"
    sentence = "The repository inflates to at least {figure:,} bytes; the limit is {limit:,}."


class TooManyEntries(LimitExceeded):
    """The working tree has more files and folders than this installation allows."""

    code = "too_many_entries"
    sentence = "The working tree has at least {figure:,} files and folders; the limit is {limit:,}."


class TreeTooDeep(LimitExceeded):
    """The working tree has folders nested more deeply than this installation allows."""

    code = "tree_too_deep"
    sentence = "The working tree has at least {figure:,} folders nested in each other; the limit is {limit:,}."


class PathTooLong(LimitExceeded):
    """The working tree has a longer path than this installation allows."""

    code = "path_too_long"
    sentence = "The working tree has a path of at least {figure:,} bytes; the limit is {limit:,}."


class JobError(CodeReposError):
    """Superclass of the ways in which a background job ends by itself."""


class Cancelled(JobError):
    """The job was cancelled; start it again when you need it."""

    code = "cancelled"


class WorkerLost(JobError):
    """The worker disappeared while it worked on this job, on every attempt; start it again or tell the operator."""

    code = "worker_lost"
    retryable = True


class InternalError(JobError):
    """Something went wrong on our side; the operator finds the details in the log under the id of the job."""

    code = "internal_error"
    retryable = True


class RequestError(CodeReposError):
    """Superclass of requests that do not fit what is stored."""


class NotFound(RequestError):
    """There is no such object, or you may not see it."""

    code = "not_found"


class PermissionDenied(RequestError):
    """Your role in this project does not allow this; ask one of its maintainers."""

    code = "permission_denied"


class AlreadyConnected(RequestError):
    """This project already has this repository with this ref."""

    code = "already_connected"


class JobRunning(RequestError):
    """Work on this repository is already under way; wait for it to end."""

    code = "job_running"


class InvalidState(RequestError):
    """The repository is in a state that does not allow this."""

    code = "invalid_state"


class Throttled(RequestError):
    """Too many repositories were connected in this project lately; try again later."""

    code = "throttled"


def error_classes(kind: type[CodeReposError] = CodeReposError) -> dict[str, type[CodeReposError]]:
    """Return every raisable class below ``kind`` by its code."""
    found = {kind.code: kind} if "code" in vars(kind) else {}
    for child in kind.__subclasses__():
        found |= error_classes(child)
    return found
