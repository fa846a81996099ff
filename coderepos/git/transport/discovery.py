"""Finds the repository: requests its advertisement under the URL as given and, if need be, with ``.git`` appended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from coderepos.exceptions import GitError, RemoteAuthFailed, RemoteMoved, RemoteNotFound, RemoteProtocolError
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.transport.http_connection import GuardedConnection, Response
from coderepos.git.transport.meter import Meter
from coderepos.git.url import GitUrl

ADVERTISEMENT: Final = "application/x-git-upload-pack-advertisement"
RESULT: Final = "application/x-git-upload-pack-result"

SUFFIX: Final = ".git"


class Discovery:
    """Where the repository was found, and the response with its advertisement.

    :param base: URL of the repository without a trailing slash.
    """

    def __init__(self, base: str, advertisement: Response) -> None:
        self.base: Final = base
        self.advertisement: Final = advertisement


def repository_connection(url: GitUrl, policy: NetworkPolicy, meter: Meter) -> GuardedConnection:
    """Return a connection that allows the two requests of smart HTTP (gitprotocol-http(5)) and nothing else."""
    requests = {}
    for base in _bases(url):
        requests["GET", _advertisement_url(base)] = ADVERTISEMENT
        requests["POST", f"{base}/git-upload-pack"] = RESULT
    return GuardedConnection(url, policy, meter, requests=requests)


def discover(url: GitUrl, connection: GuardedConnection, headers: Mapping[str, str]) -> Discovery:
    """Request the advertisement.

    No redirect is followed. But GitLab redirects every URL without ``.git``, as users copy it from their browser, to
    the one with it. So where the first URL is redirected, wherever to, the one with ``.git`` is tried.

    :raises GitError: the subclass for what went wrong.
    """
    headers = {"Accept": "*/*", "Git-Protocol": "version=2", **headers}
    base, *others = _bases(url)
    try:
        return Discovery(base, connection.request("GET", _advertisement_url(base), headers))
    except (RemoteAuthFailed, RemoteMoved, RemoteProtocolError) as error:
        if not others or not _is_redirect(error):
            raise
        first = error
    [base] = others
    try:
        return Discovery(base, connection.request("GET", _advertisement_url(base), headers))
    except RemoteNotFound:
        # There is nothing under that URL, so the redirect of the first one is all that is known.
        raise first from None


def _is_redirect(error: GitError) -> bool:
    return isinstance(error, RemoteMoved) or str(error.fields.get("reason", "")).startswith("redirect")


def _bases(url: GitUrl) -> list[str]:
    return [url.base] if url.path.endswith(SUFFIX) else [url.base, url.base + SUFFIX]


def _advertisement_url(base: str) -> str:
    return f"{base}/info/refs?service=git-upload-pack"
