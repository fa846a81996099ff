"""Errors of Git URLs, refs and repositories, and of the processes that clone them."""

from __future__ import annotations

from collections.abc import Sequence

from coderepos.exceptions.base import CodeReposError


class GitError(CodeReposError):
    """Superclass of errors of remotes, packs, trees and sandboxes."""


class InvalidGitUrl(GitError):
    """This is not a usable Git URL; give one like https://host/owner/repository.git, without user name or password."""

    code = "invalid_git_url"


class UrlNotAllowed(GitError):
    """This installation does not allow repositories from this host, port or scheme; ask its operator."""

    code = "url_not_allowed"


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
        "short id": "A commit is found only by its full id; give all 40 digits of it, or a branch or tag",
        "hidden commit": "The Git host serves only commits that a branch or tag points to; name a branch or tag",
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


class UnsafeRepository(GitError):
    """The repository holds a name or an object that is not safe to check out; git fsck --full names it."""

    code = "unsafe_repository"


class CloneTimeout(GitError):
    """The clone did not finish in time; it is tried once more. A smaller depth makes it faster."""

    code = "clone_timeout"
    retryable = True
    most_retries = 1


class OutOfMemory(GitError):
    """The worker ran out of memory; the clone is tried again. If that keeps failing, a smaller depth needs less."""

    code = "out_of_memory"
    retryable = True


class IsolationUnavailable(GitError):
    """This machine cannot isolate the clone as strictly as the settings demand; ask the operator."""

    code = "isolation_unavailable"
    retryable = True
