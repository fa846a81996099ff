"""Limits that a repository can exceed."""

from __future__ import annotations

from typing import Any, ClassVar

from coderepos.exceptions.git import GitError


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
        figures = _in_mb(size_bytes, limit_bytes)
        size = "Repository size {}{estimated_size_mb}MB exceeds limit of {limit_mb:g}MB"
        return cls(size.format("at least " if at_least else "", **figures), **figures)

    @classmethod
    def of_machines(cls, size_bytes: int, limit_bytes: int) -> RepositoryTooLarge:
        """Return the error for a clone that the disk budget of no machine allows, with figures as :meth:`of` has."""
        figures = _in_mb(size_bytes, limit_bytes)
        size = (
            "The clone takes about {estimated_size_mb} MB, and no machine of this site may give it more than "
            "{limit_mb:g} MB; a smaller depth leaves out history."
        )
        return cls(size.format(**figures), **figures)


def _in_mb(size_bytes: int, limit_bytes: int) -> dict[str, Any]:
    limit_mb = limit_bytes / 10**6
    return {
        "estimated_size_mb": -(-size_bytes // 10**5) / 10,
        "limit_mb": int(limit_mb) if limit_mb.is_integer() else limit_mb,
    }


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
    """The working tree has more files and directories than this installation allows."""

    code = "too_many_entries"
    sentence = "The working tree has at least {figure:,} files and directories; the limit is {limit:,}."


class TreeTooDeep(LimitExceeded):
    """The working tree has directories nested more deeply than this installation allows."""

    code = "tree_too_deep"
    sentence = "The working tree has at least {figure:,} directories nested in each other; the limit is {limit:,}."


class PathTooLong(LimitExceeded):
    """The working tree has a longer path than this installation allows."""

    code = "path_too_long"
    sentence = "The working tree has a path of at least {figure:,} bytes; the limit is {limit:,}."
