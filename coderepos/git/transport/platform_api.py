"""Two queries of a platform's API, for what Git cannot say: a repository's size, and when a token expires.

No failure here matters to a clone: what cannot be found out is ``None``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from coderepos.exceptions import GitError, RemoteProtocolError
from coderepos.git.credentials import basic_authorization
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.platforms import API_SECONDS, KNOWN_HOSTS, TOKEN_EXPIRY_HEADER, TOKEN_USERS, KnownHost
from coderepos.git.transport.addresses import Resolver, look_up
from coderepos.git.transport.http_connection import GuardedConnection
from coderepos.git.transport.meter import Meter
from coderepos.git.url import GitUrl, parse_git_url

RESPONSE_BYTES: Final = 10**6
"""Longest response body of a platform's API."""

KIB: Final = 1_024

_LARGEST_BYTES: Final = 2**53


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformInfo:
    """What a platform's API said of a repository; ``None`` is what it did not say."""

    size_bytes: int | None = None
    token_expires_at: str | None = None


def query_repository(
    url: GitUrl,
    policy: NetworkPolicy,
    credentials: tuple[str, str],
    *,
    hosts: Mapping[str, KnownHost] = KNOWN_HOSTS,
    seconds: float = API_SECONDS,
    resolver: Resolver = look_up,
) -> PlatformInfo:
    """Query the size of a repository, in one request.

    An API on another host than the repository is queried only where the settings allow that host too.

    :param credentials: user name and password, one of which is the token.
    """
    known = hosts.get(url.authority)
    target = _api_target(known, url.path) if known else None
    if known is None or target is None:
        return PlatformInfo()
    authorization = _api_authorization(known, credentials)
    try:
        body, headers = _get_json(known.api, target, policy, authorization, seconds=seconds, resolver=resolver)
        return PlatformInfo(size_bytes=_parse_size(known, body), token_expires_at=expiry_from_headers(headers))
    except (GitError, ValueError, RecursionError):
        return PlatformInfo()


def query_token_expiry(
    url: GitUrl,
    policy: NetworkPolicy,
    credentials: tuple[str, str],
    *,
    hosts: Mapping[str, KnownHost] = KNOWN_HOSTS,
    seconds: float = API_SECONDS,
    resolver: Resolver = look_up,
) -> str | None:
    """Return when the token expires, as ISO 8601 in UTC, if the platform has an API for that.

    GitLab's API accepts tokens of every scope, those of projects and groups included; a token expires when the day that
    it names begins in UTC (GitLab's documentation, "When personal access tokens expire").

    :param credentials: user name and password, one of which is the token.
    """
    known = hosts.get(url.authority)
    authorization = _api_authorization(known, credentials) if known else {}
    if known is None or known.token_api is None or not authorization:
        return None
    try:
        body, _ = _get_json(known.token_api, "", policy, authorization, seconds=seconds, resolver=resolver)
        return _parse_expiry(body)
    except (GitError, ValueError, RecursionError):
        return None


def expiry_from_headers(headers: Mapping[str, str]) -> str | None:
    """Return when the token expires, as ISO 8601 in UTC, if GitHub's header for it is there and well formed.

    :param headers: by their lower-case names.
    """
    found = re.fullmatch(
        r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) (?:UTC|([+-]\d{4}))",
        headers.get(TOKEN_EXPIRY_HEADER, ""),
        re.ASCII,
    )
    if found is None:
        return None
    try:
        moment = datetime.strptime(f"{found[1]} {found[2]} {found[3] or '+0000'}", "%Y-%m-%d %H:%M:%S %z")
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return None


def _get_json(
    api: str,
    target: str,
    policy: NetworkPolicy,
    authorization: Mapping[str, str],
    *,
    seconds: float,
    resolver: Resolver,
) -> tuple[Any, Mapping[str, str]]:
    """Send one request over a connection of its own, and return the JSON value and the headers of the response.

    :param target: what is appended to the API's URL.
    :raises GitError: the subclass for what went wrong.
    :raises ValueError: the body is not JSON.
    """
    origin = parse_git_url(api, policy)
    request_url = origin.base + target
    connection = GuardedConnection(
        origin,
        policy,
        Meter(seconds=seconds, receive_seconds=seconds, allowed_bytes=RESPONSE_BYTES, error=_too_large),
        requests={("GET", request_url): "application/json"},
        resolver=resolver,
    )
    try:
        response = connection.request("GET", request_url, {"Accept": "application/json", **authorization})
        return json.loads(response.read()), response.headers
    finally:
        connection.close()


def _too_large(received_bytes: int) -> GitError:
    return RemoteProtocolError(reason="answer too large")


def _api_target(known: KnownHost, path: str) -> str | None:
    """Return what is appended to the API's URL, or ``None`` if the path cannot be a repository of the platform."""
    segments = [unquote(segment) for segment in path.strip("/").removesuffix(".git").split("/")]
    if known.platform == "gitlab":
        return f"/{quote('/'.join(segments), safe='')}?statistics=true"
    if len(segments) != 2:
        return None
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


def _api_authorization(known: KnownHost, credentials: tuple[str, str]) -> dict[str, str]:
    username, password = credentials
    token = password or username
    if not token:
        return {}
    if known.platform == "bitbucket" and username not in ("", TOKEN_USERS["bitbucket"]):
        return {"Authorization": basic_authorization(username, password)}
    return {"Authorization": f"Bearer {token}"}


def _parse_size(known: KnownHost, body: Any) -> int | None:
    value = body
    for name in ("statistics", "repository_size") if known.platform == "gitlab" else ("size",):
        value = value.get(name) if isinstance(value, dict) else None
    if type(value) is not int or not 0 <= value <= _LARGEST_BYTES // KIB:
        return None
    return value * KIB if known.platform in ("github", "gitea") else value


def _parse_expiry(body: Any) -> str | None:
    day = body.get("expires_at") if isinstance(body, dict) else None
    if not isinstance(day, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", day, re.ASCII):
        return None
    return f"{date.fromisoformat(day)}T00:00:00Z"
