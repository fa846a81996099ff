"""Queries the platform's API while the repository is fetched: its size, and when the token expires."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from coderepos.git.platforms import API_SECONDS, KnownHost
from coderepos.git.transport.background import in_background
from coderepos.git.transport.platform_api import PlatformInfo, query_repository, query_token_expiry
from coderepos.git.url import GitUrl
from coderepos.git.wire import FetchRequest

T = TypeVar("T")

Pending = Callable[[float], T]
"""A call that runs in the background; takes how many seconds it may take, and returns its value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformQueries:
    """The queries that are under way; ``None`` where there is nothing to ask."""

    repository: Pending[PlatformInfo] | None
    token_expiry: Pending[str | None] | None

    def size_bytes(self) -> int | None:
        """Return the size of the repository, or ``None`` if the platform has not said."""
        info = _wait_for(self.repository)
        return info.size_bytes if info else None

    def token_expires_at(self) -> str | None:
        """Return when the token expires, or ``None`` if the platform has not said."""
        info = _wait_for(self.repository)
        return (info and info.token_expires_at) or _wait_for(self.token_expiry)


def start_platform_queries(request: FetchRequest, url: GitUrl, hosts: Mapping[str, KnownHost]) -> PlatformQueries:
    """Start the queries that the request needs and the platform can answer.

    :param hosts: the Git hosts whose platform is known.
    """
    known = hosts.get(url.authority)
    credentials = (request.username or "", request.password or "")

    def repository() -> PlatformInfo:
        return query_repository(url, request.policy, credentials, hosts=hosts)

    def token_expiry() -> str | None:
        return query_token_expiry(url, request.policy, credentials, hosts=hosts)

    has_token_api = known is not None and known.token_api is not None
    return PlatformQueries(
        repository=in_background(repository) if known and request.wants_platform_size else None,
        token_expiry=in_background(token_expiry) if has_token_api and any(credentials) else None,
    )


def _wait_for(query: Pending[T] | None) -> T | None:
    """Return the result of a query, or ``None`` if there is no query, or no result within :data:`API_SECONDS`."""
    if query is None:
        return None
    try:
        return query(API_SECONDS)
    except TimeoutError:
        return None
