"""The first request to a repository: its advertisement, under the URL as it is written or with ``.git`` added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from coderepos.exceptions import GitError, RemoteAuthFailed, RemoteMoved, RemoteNotFound, RemoteProtocolError
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.transport.http_connection import Answer, GuardedConnection
from coderepos.git.transport.meter import Meter
from coderepos.git.url import GitUrl

ADVERTISEMENT: Final = "application/x-git-upload-pack-advertisement"
RESULT: Final = "application/x-git-upload-pack-result"

SUFFIX: Final = ".git"


class Opening:
    """Where the repository was found, and what it advertises.

    :param base: URL of the repository without a trailing slash.
    """

    def __init__(self, base: str, advertisement: Answer) -> None:
        self.base: Final = base
        self.advertisement: Final = advertisement


def repository_connection(url: GitUrl, policy: NetworkPolicy, meter: Meter) -> GuardedConnection:
    """Return a connection that serves the two requests of smart HTTP (gitprotocol-http(5)) and nothing else."""
    requests = {}
    for base in _bases(url):
        requests["GET", _advertisement_url(base)] = ADVERTISEMENT
        requests["POST", f"{base}/git-upload-pack"] = RESULT
    return GuardedConnection(url, policy, meter, requests=requests)


def open_repository(url: GitUrl, connection: GuardedConnection, headers: Mapping[str, str]) -> Opening:
    """Ask for the advertisement.

    No redirect is followed. But GitLab redirects every URL without ``.git`` to the one with it, which is what users
    copy from their browser, so that one is tried where the first is redirected, wherever that leads.

    :raises GitError: a subclass that says what went wrong.
    """
    asked = {"Accept": "*/*", "Git-Protocol": "version=2", **headers}
    base, *others = _bases(url)
    try:
        return Opening(base, connection.request("GET", _advertisement_url(base), asked))
    except (RemoteAuthFailed, RemoteMoved, RemoteProtocolError) as error:
        if not others or not _is_redirect(error):
            raise
        first = error
    [base] = others
    try:
        return Opening(base, connection.request("GET", _advertisement_url(base), asked))
    except RemoteNotFound:
        # There is nothing under that spelling, so that the redirect of the other one is what is known.
        raise first from None


def _is_redirect(error: GitError) -> bool:
    return isinstance(error, RemoteMoved) or str(error.fields.get("reason", "")).startswith("redirect")


def _bases(url: GitUrl) -> list[str]:
    return [url.base] if url.path.endswith(SUFFIX) else [url.base, url.base + SUFFIX]


def _advertisement_url(base: str) -> str:
    return f"{base}/info/refs?service=git-upload-pack"
