"""The errors in the OpenAPI description: which codes each kind of call may answer with, and an example of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from drf_spectacular.utils import OpenApiExample, OpenApiResponse
from rest_framework import serializers

from coderepos.api.statuses import STATUS
from coderepos.exceptions import (
    BUSY_SECONDS,
    JOBS_SECONDS,
    PROBES_SECONDS,
    LimitExceeded,
    QuotaExceeded,
    RemoteError,
    RemoteMoved,
    RemoteThrottled,
    RepositoryTooLarge,
    StorageQuotaExceeded,
    TooManyJobs,
    TooManyProbes,
    TooManyRepositories,
    default_message,
    error_classes,
)
from coderepos.git.limits import MB

READ: Final = ("not_authenticated", "not_found")
WRITE: Final = (*READ, "permission_denied")
CONNECT: Final = (
    *WRITE,
    "invalid_request",
    "already_connected",
    *error_classes(LimitExceeded),
    "invalid_git_url",
    "url_not_allowed",
    "remote_auth_failed",
    "remote_not_found",
    "remote_moved",
    "ref_not_found",
    "repository_empty",
    "throttled",
    "too_many_repositories",
    "storage_quota_exceeded",
    "too_many_jobs",
    "too_many_probes",
    "remote_unreachable",
    "remote_certificate",
    "remote_throttled",
    "remote_unavailable",
    "proxy_unavailable",
    "remote_protocol_error",
    "remote_error",
    "remote_timeout",
    "remote_too_slow",
    "database_busy",
    "encryption_unavailable",
    "isolation_unavailable",
)
NEVER_OF_A_TOKEN: Final = {
    "already_connected",
    "repository_too_large",
    "too_many_repositories",
    "storage_quota_exceeded",
    "too_many_jobs",
}
REPLACE: Final = (
    *(code for code in CONNECT if code not in NEVER_OF_A_TOKEN),
    "invalid_state",
)
CHANGE: Final = (
    *(code for code in CONNECT if code not in {"too_many_repositories", "storage_quota_exceeded"}),
    "job_running",
    "invalid_state",
    "token_undecryptable",
)
CANCEL: Final = (*WRITE, "invalid_state", "database_busy")
CLEAN: Final = (*WRITE, "job_running", "invalid_state", "database_busy")
DISCONNECT: Final = (*WRITE, "invalid_state", "database_busy")
CLONE: Final = (*WRITE, "too_many_jobs", "storage_quota_exceeded", "job_running", "invalid_state", "database_busy")
"""Codes that each kind of call may answer with."""

QUOTAS: Final[Mapping[str, QuotaExceeded]] = {
    error.code: error
    for error in (
        TooManyRepositories(scope="project", figure=101, limit=100),
        StorageQuotaExceeded(scope="project", figure=1_012_000_000, limit=1_000_000_000),
        TooManyJobs(scope="user", figure=21, limit=20, retry_after_seconds=JOBS_SECONDS),
        TooManyProbes(scope="site", figure=21, limit=20, retry_after_seconds=PROBES_SECONDS),
    )
}
"""An example of each limit of tenants."""

FRAMEWORK: Final = {
    "invalid_request": (400, "The request has invalid values; see the fields."),
    "not_authenticated": (401, "Authentication credentials were not provided or are not valid."),
}


class ErrorDetailSerializer(serializers.Serializer[Any]):
    """What went wrong; further names stand beside these two, such as `fields`, `repo_id` or `limit_mb`."""

    error = serializers.CharField(help_text="Stable code of the error.")
    message = serializers.CharField(help_text="What is wrong, and usually what to do about it; for people.")


class ErrorSerializer(serializers.Serializer[Any]):
    """The body of every error."""

    detail = ErrorDetailSerializer()


def _status(code: str) -> int:
    return FRAMEWORK[code][0] if code in FRAMEWORK else STATUS[code]


def _example(code: str) -> OpenApiExample:
    message = FRAMEWORK[code][1] if code in FRAMEWORK else default_message(error_classes()[code])
    fields: dict[str, object] = {}
    match code:
        case "repository_too_large":
            error = RepositoryTooLarge.of(156_800_000, 100 * MB)
            message, fields = error.message, error.fields
        case "invalid_request":
            fields = {"fields": {"git_url": ["This field is required."]}}
        case "already_connected":
            fields = {"repo_id": "660e8400-e29b-41d4-a716-446655440001"}
        case "remote_error":
            error_of_host = RemoteError(remote_text="access denied or repository not exported")
            message, fields = error_of_host.message, error_of_host.fields
        case "throttled":
            fields = {"retry_after_seconds": 60}
        case "too_many_repositories" | "storage_quota_exceeded" | "too_many_jobs" | "too_many_probes":
            quota = QUOTAS[code]
            message, fields = quota.message, quota.fields
        case "remote_throttled":
            throttled = RemoteThrottled(retry_after_seconds=120)
            message, fields = throttled.message, throttled.fields
        case "database_busy":
            fields = {"retry_after_seconds": BUSY_SECONDS}
        case "remote_moved":
            moved = RemoteMoved(moved_to="https://github.com/user/new-name.git")
            message, fields = moved.message, moved.fields
    return OpenApiExample(
        code,
        {"detail": {"error": code, "message": message, **fields}},
        response_only=True,
        status_codes=[_status(code)],
    )


def error_responses(codes: Iterable[str]) -> dict[int, OpenApiResponse]:
    """Return the description of every status that ``codes`` answer with."""
    by_status: defaultdict[int, list[str]] = defaultdict(list)
    for code in codes:
        by_status[_status(code)].append(code)
    return {
        status: OpenApiResponse(ErrorSerializer, ", ".join(codes), [_example(code) for code in codes])
        for status, codes in sorted(by_status.items())
    }
