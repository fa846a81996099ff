"""A guarded HTTP connection to one origin: pinned addresses, fixed requests, bounded bytes and time.

It follows no redirect, repeats no request apart from one whose kept connection had ended, and knows no proxy of the
environment, no ``.netrc`` and no cookie, so that nothing has to be switched off. Every byte, those of headers, chunk
sizes and trailers included, passes a :class:`~coderepos.git.transport.meter.Meter`.
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
from coderepos.git.transport.http_reader import Head, HttpReader
from coderepos.git.transport.meter import Meter
from coderepos.git.transport.refusals import refusal
from coderepos.git.url import GitUrl

USER_AGENT: Final = "git/coderepos"
"""Starts with ``git/``, since some hosts answer smart HTTP to nothing else."""

NOT_SERVED: Final = "request outside of the repository"
"""Reason of the error for a request that was not named in advance."""

LEFTOVER_BYTES: Final = 65_536
"""Unread bytes of an answer that are worth reading to keep its connection."""

_HEADER: Final = re.compile(r"[A-Za-z-]+: [\t -~\x80-\xff]*\Z")


class Answer:
    """A successful answer.

    :param headers: by their lower-case names.
    :param reader: stands at the beginning of the body.
    :param count: is told what a compressed body inflates to.
    """

    def __init__(self, headers: Mapping[str, str], reader: HttpReader, count: Callable[[int], None]) -> None:
        self.headers: Final = headers
        self.body: Final = reader.body if _coding(headers) == IDENTITY else self._inflated(reader, count)
        self._reader: Final = reader

    def before_receive(self, call: Callable[[], None]) -> None:
        """Let ``call`` use the bytes that :attr:`body` returned before their place is used again."""
        self._reader.before_receive = call

    def read(self) -> bytes:
        """Return the rest of the body, which the meter keeps small."""
        data = bytearray()
        while part := self.body():
            data += part
        return bytes(data)

    def _inflated(self, reader: HttpReader, count: Callable[[int], None]) -> Callable[[], memoryview]:
        return InflatedBody(_coding(self.headers), reader.body, reader.reuse, count)


class GuardedConnection:
    """Serves requests of one origin that are named in advance, one after the other, over one connection.

    :param requests: by method and URL of every request that may be made, the media type that its answer must have.
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

    def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Return the answer to one request; the one before cannot be read any more.

        :raises GitError: a subclass that fits the status, or what went wrong on the way.
        """
        if (method, url) not in self._requests:
            raise RemoteProtocolError(reason=NOT_SERVED)
        message = self._message(method, url, headers, body)
        try:
            head = self._exchange(message)
            if not _is_wanted(head, self._requests[method, url]):
                raise refusal(head, url, self._policy, authorization=headers.get("Authorization", ""))
            self._reader.expect_body(head)
        except GitError:
            self.close()
            raise
        return Answer(head.headers, self._reader, self._connection.meter.received)

    def close(self) -> None:
        """Close the connection; unread bytes are dropped."""
        self._connection.close()

    def _message(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """Return the bytes of a request.

        :raises RemoteProtocolError: a header does not fit on its line.
        """
        fields = {"Host": self._authority, "Accept-Encoding": IDENTITY, "User-Agent": USER_AGENT, **headers}
        if body is not None:
            fields["Content-Length"] = str(len(body))
        lines = [f"{name}: {value}" for name, value in fields.items()]
        if not all(map(_HEADER.match, lines)):
            raise RemoteProtocolError(reason="http")
        head = "\r\n".join([f"{method} {url.removeprefix(self._origin)} HTTP/1.1", *lines, "", ""])
        return head.encode("latin-1") + (body or b"")

    def _exchange(self, message: bytes) -> Head:
        """Send the request; once more where the server closed the connection that was kept from the one before."""
        if self._can_be_kept():
            self._reader.await_answer()
            try:
                self._connection.send(message)
                return self._reader.head()
            except RemoteUnreachable:
                if self._reader.has_received:
                    raise
        self._connection.close()
        self._reader.await_answer()
        self._connection.open()
        self._connection.send(message)
        return self._reader.head()

    def _can_be_kept(self) -> bool:
        """Read a little more, and return whether the answer is over, so that the next can follow on the connection."""
        if not self._connection.is_open:
            return False
        left_bytes = LEFTOVER_BYTES
        try:
            while left_bytes > 0 and (part := self._reader.body()):
                left_bytes -= len(part)
        except GitError:
            return False
        return left_bytes > 0 and self._reader.may_go_on


def _is_wanted(head: Head, media_type: str) -> bool:
    """Return whether this is a success of the right media type; a proxy that changes answers makes 203 of 200."""
    return head.status in (200, 203) and head.media_type == media_type and _coding(head.headers) in CODINGS


def _coding(headers: Mapping[str, str]) -> str:
    return headers.get("content-encoding", IDENTITY).lower()
