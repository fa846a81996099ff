"""Which Git hosts are known, and how each takes a token; what asks their APIs is in ``platform_api``.

Only hosts of a fixed table are known; an unknown one is never guessed at, whatever its name looks like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from coderepos.git.url import GitUrl

ASK_SECONDS: Final = 3.0
"""Time in which a platform's API has to answer."""

TOKEN_EXPIRY: Final = "github-authentication-token-expiration"  # noqa: S105 (no token)
"""GitHub's header for the end of the token that it was asked with, in lower case."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownHost:
    """A Git host whose platform is known."""

    platform: str
    """``github``, ``gitlab``, ``bitbucket`` or ``gitea``."""

    api: str
    """URL that its API for repositories starts with."""

    token_api: str | None = None
    """URL that tells about the token it is asked with, where there is one; it answers as GitLab's does."""


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
"""By ``host`` or ``host:port``; self-hosted installations are added by whoever knows them."""

TOKEN_USERS: Final = {"gitlab": "oauth2", "bitbucket": "x-token-auth", "gitea": "git", "generic": "git"}
"""User names under which the platforms take a token as password."""


def platform_of(url: GitUrl, hosts: Mapping[str, KnownHost] = KNOWN_HOSTS) -> str:
    """Return ``github``, ``gitlab``, ``bitbucket``, ``gitea``, or ``generic`` for every other host."""
    known = hosts.get(url.authority)
    return known.platform if known else "generic"
