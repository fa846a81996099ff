"""What a platform's API tells beside Git: the size of a repository and the end of a token.

Imported in the fetch child only where there is something to ask. Nothing that goes wrong here matters to a clone.
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
from coderepos.git.platforms import ASK_SECONDS, KNOWN_HOSTS, TOKEN_EXPIRY, TOKEN_USERS, KnownHost
from coderepos.git.transport.addresses import Resolver, look_up
from coderepos.git.transport.http_connection import GuardedConnection
from coderepos.git.transport.meter import Meter
from coderepos.git.url import GitUrl, parse_git_url

ANSWER_BYTES: Final = 10**6
"""Longest answer of a platform's API."""

KIB: Final = 1_024

_LARGEST_BYTES: Final = 2**53


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformAnswer:
    """What a platform's API told, each ``None`` where it did not."""

    size_bytes: int | None = None
    token_expires_at: str | None = None


def ask_platform(
    url: GitUrl,
    policy: NetworkPolicy,
    credentials: tuple[str, str],
    *,
    hosts: Mapping[str, KnownHost] = KNOWN_HOSTS,
    seconds: float = ASK_SECONDS,
    resolver: Resolver = look_up,
) -> PlatformAnswer:
    """Ask the platform's API for the size of a repository, in one request; nothing that goes wrong matters.

    An API on another host than the repository is asked only where the settings allow that host too.

    :param credentials: user name and password, one of which is the token.
    """
    known = hosts.get(url.authority)
    target = _api_target(known, url.path) if known else None
    if known is None or target is None:
        return PlatformAnswer()
    authorization = _api_authorization(known, credentials)
    try:
        told, headers = _get_json(known.api, target, policy, authorization, seconds=seconds, resolver=resolver)
        return PlatformAnswer(size_bytes=_told_size(known, told), token_expires_at=token_expiry(headers))
    except (GitError, ValueError, RecursionError):
        return PlatformAnswer()


def ask_token_expiry(
    url: GitUrl,
    policy: NetworkPolicy,
    credentials: tuple[str, str],
    *,
    hosts: Mapping[str, KnownHost] = KNOWN_HOSTS,
    seconds: float = ASK_SECONDS,
    resolver: Resolver = look_up,
) -> str | None:
    """Ask the platform when the token expires, and return that as ISO 8601 in UTC; nothing that goes wrong matters.

    Only where a token is given and the platform has a URL for it. GitLab's answers to tokens of every scope, those of
    projects and groups included; the token ends when the day that it names begins in UTC (GitLab's documentation,
    "When personal access tokens expire").

    :param credentials: user name and password, one of which is the token.
    """
    known = hosts.get(url.authority)
    authorization = _api_authorization(known, credentials) if known else {}
    if known is None or known.token_api is None or not authorization:
        return None
    try:
        told, _ = _get_json(known.token_api, "", policy, authorization, seconds=seconds, resolver=resolver)
        return _told_expiry(told)
    except (GitError, ValueError, RecursionError):
        return None


def token_expiry(headers: Mapping[str, str]) -> str | None:
    """Return when the token expires, as ISO 8601 in UTC, where GitHub's header for it is there and well formed.

    :param headers: by their lower-case names.
    """
    found = re.fullmatch(
        r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) (?:UTC|([+-]\d{4}))",
        headers.get(TOKEN_EXPIRY, ""),
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
    """Return value and headers of an API's answer to one request, over a connection of its own.

    :param target: what the request adds to the API's URL.
    :raises GitError: what went wrong on the way.
    :raises ValueError: the answer is no JSON.
    """
    origin = parse_git_url(api, policy)
    address = origin.base + target
    connection = GuardedConnection(
        origin,
        policy,
        Meter(seconds=seconds, receive_seconds=seconds, allowed_bytes=ANSWER_BYTES, error=_too_large),
        requests={("GET", address): "application/json"},
        resolver=resolver,
    )
    try:
        answer = connection.request("GET", address, {"Accept": "application/json", **authorization})
        return json.loads(answer.read()), answer.headers
    finally:
        connection.close()


def _too_large(received_bytes: int) -> GitError:
    return RemoteProtocolError(reason="answer too large")


def _api_target(known: KnownHost, path: str) -> str | None:
    """Return what the one request adds to the API's URL, or ``None`` where the path is not one of the platform's."""
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


def _told_size(known: KnownHost, answer: Any) -> int | None:
    value = answer
    for name in ("statistics", "repository_size") if known.platform == "gitlab" else ("size",):
        value = value.get(name) if isinstance(value, dict) else None
    if type(value) is not int or not 0 <= value <= _LARGEST_BYTES // KIB:
        return None
    return value * KIB if known.platform in ("github", "gitea") else value


def _told_expiry(answer: Any) -> str | None:
    day = answer.get("expires_at") if isinstance(answer, dict) else None
    if not isinstance(day, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", day, re.ASCII):
        return None
    return f"{date.fromisoformat(day)}T00:00:00Z"
