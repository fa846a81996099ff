"""Turns an unexpected HTTP response into the error that explains it.

Remote text stays out of the error, but for what :mod:`~coderepos.git.transport.redirects` lets through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from coderepos.exceptions import (
    GitError,
    RemoteAuthFailed,
    RemoteNotFound,
    RemoteProtocolError,
    RemoteThrottled,
    RemoteUnavailable,
    RemoteUnreachable,
)
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.transport.content_coding import CODINGS, IDENTITY
from coderepos.git.transport.http_reader import ResponseHead
from coderepos.git.transport.redirects import REDIRECTS, redirect_error

SIGN_IN_PAGE: Final = "sign-in page"
WEB_PAGE: Final = "web page"
SERVER_ERROR: Final = "server error"

_SECONDS: Final = re.compile(r"[0-9]{1,20}\Z")


def response_error(head: ResponseHead, requested_url: str, policy: NetworkPolicy, *, authorization: str) -> GitError:
    """Return the error for a response.

    Hosts hide what a token may not see, each in its own way: GitHub sends 401 for repositories that do not exist,
    Azure DevOps a sign-in page with 203 for an expired token, others a redirect to such a page.

    :param requested_url: URL of the request.
    :param authorization: value of its ``Authorization`` header; empty without one.
    """
    status, headers = head.status, head.headers
    if status in REDIRECTS:
        return redirect_error(headers.get("location", ""), requested_url, policy, authorization)
    if status == 429 or (status == 403 and _is_rate_limit(headers)):
        return RemoteThrottled(retry_after_seconds=retry_after(headers))
    if status in (401, 403):
        return RemoteAuthFailed()
    if status in (404, 410):
        return RemoteNotFound()
    if status == 503 or (status >= 500 and retry_after(headers)):
        return RemoteUnavailable(retry_after_seconds=retry_after(headers))
    if status in (408, 425) or status >= 500:
        return RemoteUnreachable(reason=SERVER_ERROR, http_status=status)
    return _not_git(head, authorization)


def _not_git(head: ResponseHead, authorization: str) -> GitError:
    """Return the error for a response that is not an HTTP error, but not of the Git protocol either."""
    status = head.status
    if head.media_type in ("text/html", "application/xhtml+xml") or status == 203:
        return RemoteAuthFailed(reason=SIGN_IN_PAGE) if authorization else RemoteProtocolError(reason=WEB_PAGE)
    if status != 200:
        return RemoteProtocolError(reason="http status", http_status=status)
    if head.headers.get("content-encoding", IDENTITY).lower() not in CODINGS:
        return RemoteProtocolError(reason="content encoding")
    return RemoteProtocolError(reason="content type")


def retry_after(headers: Mapping[str, str]) -> int | None:
    """Return how many seconds to wait by ``Retry-After`` (RFC 9110, section 10.2.3), or ``None``.

    Without that header the reset of an exhausted rate limit counts, which GitHub gives as a Unix time. Times are
    compared with the host's own ``Date``, if it is there, since clocks differ.

    :param headers: by their lower-case names.
    """
    value, reset = headers.get("retry-after", ""), headers.get("x-ratelimit-reset", "")
    if _SECONDS.match(value):
        return int(value)
    now = _date(headers.get("date", "")) or datetime.now(UTC)
    if moment := _date(value):
        return max(0, round((moment - now).total_seconds()))
    if headers.get("x-ratelimit-remaining") == "0" and _SECONDS.match(reset):
        return max(0, int(reset) - round(now.timestamp()))
    return None


def _is_rate_limit(headers: Mapping[str, str]) -> bool:
    """Return whether a 403 means a rate limit (GitHub's documentation, "Rate limits for the REST API")."""
    return "retry-after" in headers or headers.get("x-ratelimit-remaining") == "0"


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
