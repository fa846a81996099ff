"""The known Git hosts and how each expects a token; :mod:`~coderepos.git.transport.platform_api` queries their APIs.

Hosts are looked up in a fixed table; the platform of another host is never guessed from its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from coderepos.git.url import GitUrl

API_SECONDS: Final = 3.0
"""Longest wait for a response of a platform's API."""

TOKEN_EXPIRY_HEADER: Final = "github-authentication-token-expiration"  # noqa: S105 (no token)
"""GitHub's header, in lower case, for when the token of the request expires."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownHost:
    """A Git host whose platform is known."""

    platform: str
    """``github``, ``gitlab``, ``bitbucket`` or ``gitea``."""

    api: str
    """URL that the paths of its API for repositories are appended to."""

    token_api: str | None = None
    """URL that describes the token of the request, in GitLab's format; ``None`` if the platform has none."""


KNOWN_HOSTS: Final[Mapping[str, KnownHost]] = {
    "github.com": KnownHost(platform="github", api="https://api.github.com/repos"),
    "gitlab.com": KnownHost(
        platform="gitlab",
        api="https://gitlab.com/api/v4/projects",
        token_api="https://gitlab.com/api/v4/personal_access_tokens/self",  # noqa: S106 (no token)
    ),
    "bitbucket.org": KnownHost(platform="bitbucket", api="https://api.bitbucket.org/2.0/repositories"),
    "codeberg.org": KnownHost(platform="gitea", api="https://codeberg.org/api/v1/repos"),
}
"""By ``host`` or ``host:port``."""

PLATFORMS: Final = (*sorted({host.platform for host in KNOWN_HOSTS.values()}), "generic")

TOKEN_USERS: Final = {"gitlab": "oauth2", "bitbucket": "x-token-auth", "gitea": "git", "generic": "git"}
"""User names with which the platforms accept a token as password."""


def platform_of(url: GitUrl, hosts: Mapping[str, KnownHost] = KNOWN_HOSTS) -> str:
    """Return ``github``, ``gitlab``, ``bitbucket``, ``gitea``, or ``generic`` for every other host."""
    known = hosts.get(url.authority)
    return known.platform if known else "generic"
