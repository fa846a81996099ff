"""Refuses every redirect, and says where it led: to the moved repository on its own host, to another host, to a page.

A token never follows a redirect. The path to which a repository has moved on its own host is the only remote text in
the error; it has to pass the checks for Git URLs.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from coderepos.exceptions import (
    GitError,
    InvalidGitUrl,
    RemoteAuthFailed,
    RemoteMoved,
    RemoteProtocolError,
)
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.remote_text import harmless_text
from coderepos.git.url import parse_git_url

REDIRECTS: Final = (301, 302, 303, 307, 308)
"""Status codes of redirects (RFC 9110, section 15.4)."""

REDIRECT: Final = "redirect"
"""Reason of the error for a redirect to something other than a repository."""

REDIRECT_ELSEWHERE: Final = "redirect to another host"
"""Reason of the error for a redirect to a repository of another origin."""

_SERVICES: Final = ("/info/refs", "/git-upload-pack")
"""What smart HTTP appends to the URL of a repository (gitprotocol-http(5))."""


def redirect_error(location: str, requested_url: str, policy: NetworkPolicy, authorization: str) -> GitError:
    """Return the error for a redirect: to a moved repository, on its host or elsewhere, or to a web page.

    :param location: value of the ``Location`` header; empty without one.
    :param requested_url: URL of the request.
    :param authorization: value of its ``Authorization`` header; empty without one.
    """
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
