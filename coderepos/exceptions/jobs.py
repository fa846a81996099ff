"""Errors by which a background job ends."""

from __future__ import annotations

from coderepos.exceptions.base import CodeReposError


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
