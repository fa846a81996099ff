"""Turns an unexpected HTTP response into the error that explains it.

Remote text stays out of the error, except for the path to which a repository has moved on its own host, which has to
pass the checks for Git URLs.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from coderepos.exceptions import (
    GitError,
    InvalidGitUrl,
    RemoteAuthFailed,
    RemoteMoved,
    RemoteNotFound,
    RemoteProtocolError,
    RemoteThrottled,
    RemoteUnavailable,
    RemoteUnreachable,
)
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.remote_text import harmless_text
from coderepos.git.transport.content_coding import CODINGS, IDENTITY
from coderepos.git.transport.http_reader import ResponseHead
from coderepos.git.url import parse_git_url

REDIRECT: Final = "redirect"
"""Reason of the error for a redirect to something other than a repository."""

REDIRECT_ELSEWHERE: Final = "redirect to another host"
"""Reason of the error for a redirect to a repository of another origin."""

SIGN_IN_PAGE: Final = "sign-in page"
WEB_PAGE: Final = "web page"
SERVER_ERROR: Final = "server error"

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_SERVICES: Final = ("/info/refs", "/git-upload-pack")
"""What smart HTTP appends to the URL of a repository (gitprotocol-http(5))."""

_SECONDS: Final = re.compile(r"[0-9]{1,20}\Z")


def response_error(head: ResponseHead, requested_url: str, policy: NetworkPolicy, *, authorization: str) -> GitError:
    """Return the error for a response.

    Hosts hide what a token may not see, each in its own way: GitHub sends 401 for repositories that do not exist,
    Azure DevOps a sign-in page with 203 for an expired token, others a redirect to such a page.

    :param requested_url: URL of the request.
    :param authorization: value of its ``Authorization`` header; empty without one.
    """
    status, headers = head.status, head.headers
    if status in _REDIRECTS:
        return _redirected(headers.get("location", ""), requested_url, policy, authorization)
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


def _redirected(location: str, requested_url: str, policy: NetworkPolicy, authorization: str) -> GitError:
    """Return the error for a redirect: to a moved repository, on its host or elsewhere, or to a web page."""
    try:
        target = urlsplit(urljoin(requested_url, location))
    except ValueError:
        return RemoteProtocolError(reason=REDIRECT)
    service = next((service for service in _SERVICES if target.path.endswith(service)), None)
    if not location or service is None:
        return RemoteAuthFailed(reason=REDIRECT) if authorization else RemoteProtocolError(reason=REDIRECT)
    requested = parse_git_url(requested_url.partition("?")[0], policy)
    place = f"{target.scheme}://{target.netloc}{target.path.removesuffix(service)}"
    try:
        moved_to = parse_git_url(place, policy)
    except InvalidGitUrl:
        return RemoteProtocolError(reason=REDIRECT)
    except GitError:
        return RemoteProtocolError(reason=REDIRECT_ELSEWHERE)
    if moved_to.origin != requested.origin:
        return RemoteProtocolError(reason=REDIRECT_ELSEWHERE)
    if requested.path == moved_to.path + service or not _is_harmless(moved_to.path, authorization):
        return RemoteProtocolError(reason=REDIRECT)
    return RemoteMoved(moved_to=moved_to.path)


def _is_harmless(path: str, authorization: str) -> bool:
    """Return whether a path may be shown: it is short and contains no part of the credentials, which hosts may echo."""
    encoded = authorization.rpartition(" ")[2]
    try:
        username, _, password = b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        username, password = "", encoded
    secrets = ("", password or username)
    return all(harmless_text(text.encode(), secrets) == text for text in (path, unquote(path)))
