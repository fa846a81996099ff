"""Errors of the Git host and of the way to it."""

from __future__ import annotations

from typing import ClassVar, Final

from coderepos.exceptions.git import GitError

LONGEST_WAIT_SECONDS: Final = 3_600
"""Longest wait that a Git host's ``Retry-After`` is granted."""


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
    """The Git host has no such repository, or hides it from this token; check the URL and the token."""

    code = "remote_not_found"


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
        "proxy": "This installation's proxy cannot reach the Git host, or refuses to; check the URL, or try later.",
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
    """The Git host received too many requests lately; try again later."""

    code = "remote_throttled"
    sentence = "The Git host received too many requests lately; it asks to wait {seconds} s before the next one."


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
    """The answer did not come from a Git server that this app understands; check the URL."""

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


class RemoteTooSlow(GitError):
    """The Git host sends too slowly; a clone is tried once more. A smaller depth transfers less."""

    code = "remote_too_slow"
    retryable = True
    most_retries = 1
