"""Errors of requests that do not fit what is stored."""

from __future__ import annotations

from typing import Final

from coderepos.exceptions.base import CodeReposError

BUSY_SECONDS: Final = 5
"""How long a caller is asked to wait for a busy database."""


class RequestError(CodeReposError):
    """Superclass of requests that do not fit what is stored."""


class NotFound(RequestError):
    """There is no such object, or you may not see it."""

    code = "not_found"


class PermissionDenied(RequestError):
    """Your role in this project does not allow this; ask one of its maintainers."""

    code = "permission_denied"


class AlreadyConnected(RequestError):
    """This repository is already connected to this project with this ref."""

    code = "already_connected"


class JobRunning(RequestError):
    """Work on this repository is already under way; wait for it to end."""

    code = "job_running"


class InvalidState(RequestError):
    """The repository is in a state that does not allow this."""

    code = "invalid_state"


class NotOnDisk(RequestError):
    """What was cloned is not on this machine's disk, and is being restored from the storage for packs.

    :param node: machine whose disk has it, where one has.
    :param retry_after_seconds: how long to wait, where it is being restored.
    """

    code = "not_on_disk"
    retryable = True


class Throttled(RequestError):
    """Too many repositories were connected to this project lately; try again later."""

    code = "throttled"


class DatabaseBusy(RequestError):
    """Another process held what this request needs for too long, so nothing was changed; try again in some seconds.

    :param retry_after_seconds: how long to wait, such as :data:`BUSY_SECONDS`.
    """

    code = "database_busy"
    retryable = True
