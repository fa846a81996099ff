"""A guarded HTTP connection to one origin: pinned addresses, an allowlist of requests, bounded bytes and time.

It follows no redirects and reads no proxy settings of the environment, no ``.netrc`` and no cookies. It repeats a
request only if the server had closed the kept-alive connection. A :class:`~coderepos.git.transport.meter.Meter` counts
every byte, including headers, chunk sizes and trailers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from coderepos.exceptions import GitError, RemoteProtocolError, RemoteUnreachable
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.transport.addresses import Resolver, look_up
from coderepos.git.transport.connection import PinnedConnection
from coderepos.git.transport.content_coding import CODINGS, IDENTITY, InflatedBody
from coderepos.git.transport.http_reader import HttpReader, ResponseHead
from coderepos.git.transport.meter import Meter
from coderepos.git.transport.response_errors import response_error
from coderepos.git.url import GitUrl

USER_AGENT: Final = "git/coderepos"
"""Starts with ``git/``, since some hosts serve smart HTTP to no other client."""

NOT_ALLOWLISTED: Final = "request outside of the repository"
"""Reason of the error for a request that is not on the allowlist."""

LEFTOVER_BYTES: Final = 65_536
"""Most unread bytes of a response that are read to keep the connection alive."""

_HEADER: Final = re.compile(r"[A-Za-z-]+: [\t -~\x80-\xff]*\Z")


class Response:
    """A successful response.

    :param headers: by their lower-case names.
    :param reader: positioned at the start of the body.
    :param count: called with the bytes to charge for inflating a compressed body.
    """

    def __init__(self, headers: Mapping[str, str], reader: HttpReader, count: Callable[[int], None]) -> None:
        self.headers: Final = headers
        self.body: Final = reader.body if _coding(headers) == IDENTITY else self._inflated(reader, count)
        self._reader: Final = reader

    def before_receive(self, call: Callable[[], None]) -> None:
        """Have ``call`` called before the buffer of the bytes that :attr:`body` returned is used again."""
        self._reader.before_receive = call

    def read(self) -> bytes:
        """Return the rest of the body; the meter bounds it."""
        data = bytearray()
        while part := self.body():
            data += part
        return bytes(data)

    def _inflated(self, reader: HttpReader, count: Callable[[int], None]) -> Callable[[], memoryview]:
        return InflatedBody(_coding(self.headers), reader.body, reader.reuse, count)


class GuardedConnection:
    """Sends requests to one origin, one after the other, over one connection.

    :param requests: the allowlist: by method and URL, the media type that the response must have.
    """

    def __init__(
        self,
        url: GitUrl,
        policy: NetworkPolicy,
        meter: Meter,
        *,
        requests: Mapping[tuple[str, str], str],
        resolver: Resolver = look_up,
    ) -> None:
        self._authority: Final = url.authority
        self._origin: Final = f"{url.scheme}://{url.authority}"
        self._requests: Final = requests
        self._policy: Final = policy
        self._connection: Final = PinnedConnection(url, policy, meter, resolver)
        self._reader: Final = HttpReader(self._connection.receive_into, meter.received)

    def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Response:
        """Send a request and return the response; the previous response cannot be read any more.

        :raises GitError: the subclass for the status, or for what went wrong on the way.
        """
        if (method, url) not in self._requests:
            raise RemoteProtocolError(reason=NOT_ALLOWLISTED)
        message = self._message(method, url, headers, body)
        self._connection.meter.begin_request()
        try:
            head = self._exchange(message)
            if not _is_expected(head, self._requests[method, url]):
                raise response_error(head, url, self._policy, authorization=headers.get("Authorization", ""))
            self._reader.expect_body(head)
        except GitError:
            self.close()
            raise
        return Response(head.headers, self._reader, self._connection.meter.received)

    def close(self) -> None:
        """Close the connection; unread bytes are discarded."""
        self._connection.close()

    def _message(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """Return the bytes of a request.

        :raises RemoteProtocolError: a header contains a line break or a control character.
        """
        fields = {"Host": self._authority, "Accept-Encoding": IDENTITY, "User-Agent": USER_AGENT, **headers}
        if body is not None:
            fields["Content-Length"] = str(len(body))
        lines = [f"{name}: {value}" for name, value in fields.items()]
        if not all(map(_HEADER.match, lines)):
            raise RemoteProtocolError(reason="http")
        head = "\r\n".join([f"{method} {url.removeprefix(self._origin)} HTTP/1.1", *lines, "", ""])
        return head.encode("latin-1") + (body or b"")

    def _exchange(self, message: bytes) -> ResponseHead:
        """Send the request; send it again if the server had closed the kept-alive connection."""
        if self._can_be_reused():
            self._reader.reset()
            try:
                self._connection.send(message)
                return self._reader.head()
            except RemoteUnreachable:
                if self._reader.has_received:
                    raise
        self._connection.close()
        self._reader.reset()
        self._connection.open()
        self._connection.send(message)
        return self._reader.head()

    def _can_be_reused(self) -> bool:
        """Read what little is left of the response, and return whether the connection can be used again."""
        if not self._connection.is_open:
            return False
        left_bytes = LEFTOVER_BYTES
        try:
            while left_bytes > 0 and (part := self._reader.body()):
                left_bytes -= len(part)
        except GitError:
            return False
        return left_bytes > 0 and self._reader.is_reusable


def _is_expected(head: ResponseHead, media_type: str) -> bool:
    """Return whether this is a success of the right media type; a transforming proxy turns 200 into 203."""
    return head.status in (200, 203) and head.media_type == media_type and _coding(head.headers) in CODINGS


def _coding(headers: Mapping[str, str]) -> str:
    return headers.get("content-encoding", IDENTITY).lower()
