"""The first request to a repository: its advertisement, under the URL as it is written or with ``.git`` added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from coderepos.exceptions import RemoteProtocolError
from coderepos.git.connection import Meter
from coderepos.git.messages import NetworkPolicy
from coderepos.git.network import REDIRECT, Answer, GuardedConnection
from coderepos.git.url import GitUrl

CONTENT_TYPES: Final = ("application/x-git-upload-pack-advertisement", "application/x-git-upload-pack-result")

SUFFIX: Final = ".git"


@dataclass(frozen=True, slots=True)
class Opening:
    """Where the repository was found, and what it advertises."""

    base: str
    """URL of the repository without a trailing slash."""

    advertisement: Answer


def repository_connection(url: GitUrl, policy: NetworkPolicy, meter: Meter) -> GuardedConnection:
    """Return a connection that serves the two requests of smart HTTP (gitprotocol-http(5)) and nothing else."""
    return GuardedConnection(
        url,
        policy,
        meter,
        requests=[
            request
            for base in _bases(url)
            for request in (("GET", _advertisement_url(base)), ("POST", f"{base}/git-upload-pack"))
        ],
        content_types=CONTENT_TYPES,
    )


def open_repository(
    url: GitUrl, connection: GuardedConnection, headers: Mapping[str, str], *, inspect: Callable[[bytes], None]
) -> Opening:
    """Ask for the advertisement.

    No redirect is followed. But GitLab redirects every URL without ``.git`` to the one with it, which is what users
    copy from their browser, so that one is tried where the first is redirected, wherever that leads.

    :param inspect: is called with the bytes of the advertisement as they arrive.
    :raises GitError: the leaf that says what went wrong.
    """
    asked = {"Accept": "*/*", "Git-Protocol": "version=2", **headers}
    base, *others = _bases(url)
    try:
        return Opening(base, connection.request("GET", _advertisement_url(base), asked, inspect=inspect))
    except RemoteProtocolError as error:
        if not others or error.fields != {"reason": REDIRECT}:
            raise
    [base] = others
    return Opening(base, connection.request("GET", _advertisement_url(base), asked, inspect=inspect))


def _bases(url: GitUrl) -> list[str]:
    return [url.base] if url.path.endswith(SUFFIX) else [url.base, url.base + SUFFIX]


def _advertisement_url(base: str) -> str:
    return f"{base}/info/refs?service=git-upload-pack"
