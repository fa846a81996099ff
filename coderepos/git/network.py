"""A guarded HTTP connection to one origin: pinned addresses, fixed requests, bounded bytes and time.

Built on :mod:`http.client` alone: it follows no redirect, repeats no request, reads no proxy variable, no ``.netrc``
and no cookie, so that nothing has to be switched off. Every byte, those of headers, chunk sizes and trailers
included, passes a :class:`~coderepos.git.connection.Meter`.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, NoReturn

from coderepos.exceptions import (
    GitError,
    RemoteAuthFailed,
    RemoteNotFound,
    RemoteProtocolError,
    RemoteTimeout,
    RemoteUnreachable,
)
from coderepos.git.addresses import Resolver
from coderepos.git.connection import READ_BYTES, Meter, PinnedConnection
from coderepos.git.messages import NetworkPolicy
from coderepos.git.url import GitUrl

USER_AGENT: Final = "git/coderepos"
"""Starts with ``git/``, since some hosts answer smart HTTP to nothing else."""

REDIRECT: Final = "redirect"
"""Reason of the error for a redirect."""

LEFTOVER_BYTES: Final = 65_536
"""Unread bytes of an answer that are worth reading to keep its connection."""


class Answer:
    """The body of an answer with status 200, read in any portions.

    ``content_type`` and ``redirect_location`` are what dulwich asks for; the latter is always empty.

    :param inspect: is called with all bytes as they arrive.
    """

    redirect_location: Final = ""

    def __init__(self, response: http.client.HTTPResponse, inspect: Callable[[bytes], None] | None = None) -> None:
        self.status: Final = response.status
        self.headers: Final = response.headers
        self.content_type: Final = _media_type(response)
        self._response: Final = response
        self._inspect: Final = inspect
        self._buffer = b""
        self._position = 0

    def read(self, size: int) -> bytes:
        """Return exactly ``size`` bytes, fewer only at the end of the body."""
        end = self._position + size
        if end <= len(self._buffer):
            data = self._buffer[self._position : end]
            self._position = end
            return data
        parts = [self._buffer[self._position :]]
        missing = size - len(parts[0])
        self._buffer, self._position = b"", 0
        with translated_errors():
            while missing and (data := self._receive()):
                if len(data) > missing:
                    self._buffer, self._position = data, missing
                    data = data[:missing]
                parts.append(data)
                missing -= len(data)
        return b"".join(parts)

    def finish(self) -> bool:
        """Read at most :data:`LEFTOVER_BYTES` more; is the body over, so that its connection can be kept?"""
        with suppress(GitError):
            if len(self.read(LEFTOVER_BYTES)) < LEFTOVER_BYTES:
                self._response.close()
                return True
        return False

    def close(self) -> None:
        """Do nothing: the connection decides whether it is kept."""

    def _receive(self) -> bytes:
        data = self._response.read1(READ_BYTES)
        if not data and self._response.length:
            raise http.client.IncompleteRead(b"")
        if self._inspect is not None:
            self._inspect(data)
        return data


class GuardedConnection:
    """Serves requests of one origin that are named in advance, one after the other, over one connection.

    :param requests: method and URL of every request that may be made.
    :param content_types: the media types that an answer may have.
    :raises RemoteUnreachable: the trust store cannot be read.
    """

    def __init__(
        self,
        url: GitUrl,
        policy: NetworkPolicy,
        meter: Meter,
        *,
        requests: Collection[tuple[str, str]],
        content_types: Collection[str],
        resolver: Resolver = socket.getaddrinfo,
    ) -> None:
        self._origin: Final = f"{url.scheme}://{url.authority}"
        self._requests: Final = requests
        self._content_types: Final = content_types
        self._http: Final = PinnedConnection(url, policy, meter, resolver)
        self._response: http.client.HTTPResponse | None = None
        self._answer: Answer | None = None

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        inspect: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Return the answer to one request.

        :param inspect: is called with all bytes of the body as they arrive.
        :raises GitError: a leaf that fits the status, or what went wrong on the way.
        """
        if (method, url) not in self._requests:
            raise RemoteProtocolError(reason="request outside of the repository")
        if self._answer is not None and not self._answer.finish():
            self.close()
        self._answer = None
        with translated_errors():
            response = self._response = self._exchange(method, url.removeprefix(self._origin), headers, body)
        if response.status != 200:
            self.close()
            raise_for_status(response.status)
        if _media_type(response) not in self._content_types:
            raise RemoteProtocolError(reason="content type")
        if response.getheader("Content-Encoding", "identity").strip().lower() != "identity":
            raise RemoteProtocolError(reason="content encoding")
        self._answer = Answer(response, inspect)
        return self._answer

    def close(self) -> None:
        """Close the connection; unread bytes are dropped."""
        self._http.close()
        if self._response is not None:
            self._response.close()

    def _exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> http.client.HTTPResponse:
        """Send the request; once more where the server closed the connection that was kept from the one before."""
        headers = {"User-Agent": USER_AGENT, **headers}
        kept = self._http.sock is not None
        try:
            self._http.request(method, target, body, headers)
            return self._http.getresponse()
        except ConnectionError:
            self._http.close()
            if not kept:
                raise
        self._http.request(method, target, body, headers)
        return self._http.getresponse()


def raise_for_status(status: int) -> NoReturn:
    """Raise the error that fits an HTTP status other than 200.

    Some hosts, GitHub among them, answer 401 for repositories that do not exist.
    """
    if 300 <= status < 400:
        raise RemoteProtocolError(reason=REDIRECT)
    if status in (401, 403):
        raise RemoteAuthFailed
    if status in (404, 410):
        raise RemoteNotFound
    if status in (408, 425, 429) or status >= 500:
        raise RemoteUnreachable
    raise RemoteProtocolError(reason="http status")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what sockets, TLS and HTTP raise into our errors, by type alone; remote text stays out of them."""
    try:
        yield
    except TimeoutError:
        raise RemoteTimeout from None
    except (OSError, http.client.IncompleteRead):
        raise RemoteUnreachable from None
    except (http.client.HTTPException, ValueError):
        raise RemoteProtocolError(reason="http") from None


def _media_type(response: http.client.HTTPResponse) -> str:
    return response.getheader("Content-Type", "").partition(";")[0].strip().lower()
