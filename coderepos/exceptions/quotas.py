"""Errors of callers who have, or ask for, more than their limits allow."""

from __future__ import annotations

from typing import ClassVar, Final

from coderepos.exceptions.requests import RequestError

JOBS_SECONDS: Final = 60
"""How long a caller is asked to wait for jobs to end."""

PROBES_SECONDS: Final = 5
"""How long a caller is asked to wait for probes to end."""


class QuotaExceeded(RequestError):
    """Superclass of limits of a project, a user or the site; each names its figure and its limit.

    :param scope: whose limit it is: ``project``, ``user`` or ``site``.
    :param figure: what there would be with what was asked for.
    :param limit: the most that is allowed, in the same unit.
    """

    sentence: ClassVar[str]
    """Message with both figures, used where they are known."""

    def __init__(
        self,
        message: str | None = None,
        *,
        scope: str = "",
        figure: int | None = None,
        limit: int | None = None,
        **fields: object,
    ) -> None:
        if figure is not None and limit is not None:
            message = message or self.sentence.format(scope=scope, figure=figure, limit=limit)
            fields |= {"scope": scope, "figure": figure, "limit": limit}
        super().__init__(message, **fields)


class TooManyRepositories(QuotaExceeded):
    """There are as many repositories as the project or the user may have; disconnect one, or ask for a higher limit."""

    code = "too_many_repositories"
    sentence = (
        "With this one the {scope} would have {figure:,} repositories; the limit is {limit:,}. Disconnect one, or ask"
        " the operator for a higher limit."
    )


class StorageQuotaExceeded(QuotaExceeded):
    """The repositories of the project or the user take as much room as they may; clean one, or ask for more."""

    code = "storage_quota_exceeded"
    sentence = (
        "With this one the repositories of the {scope} would take about {figure:,} bytes; the limit is {limit:,}. Clean"
        " or disconnect one, or ask the operator for more."
    )


class TooManyJobs(QuotaExceeded):
    """The project or the user has as many unfinished jobs as it may have; try again when some have ended."""

    code = "too_many_jobs"
    retryable = True
    sentence = (
        "With this one the {scope} would have {figure:,} unfinished jobs; the limit is {limit:,}. Try again when some"
        " have ended."
    )


class TooManyProbes(QuotaExceeded):
    """Too many repositories are being tested against their Git hosts right now; try again in some seconds."""

    code = "too_many_probes"
    retryable = True
    sentence = (
        "With this one, {figure:,} repositories of the {scope} would be tested against their Git hosts at once; the"
        " limit is {limit:,}. Try again in some seconds."
    )
