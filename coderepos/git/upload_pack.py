"""The smart HTTP protocol, spoken by dulwich over a guarded connection.

Imported after the first request is on its way: dulwich takes about 100 ms to load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from dulwich.client import AbstractHttpGitClient
from dulwich.protocol import pkt_line
from dulwich.refs import HEADREF

from coderepos.exceptions import CodeReposError, RemoteProtocolError
from coderepos.git.network import GuardedConnection
from coderepos.git.opening import Opening
from coderepos.git.pack_writer import StoppedEarly

_COMMAND_FETCH: Final = pkt_line(b"command=fetch\n")
_DELIMITER: Final = b"0001"

READS_OF_A_LINE: Final = 2
"""dulwich reads the length of a pkt-line, then its content."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Received:
    """What the server said besides the refs and the pack."""

    head_target: bytes
    """Full name of the branch that HEAD points to; empty where it is detached or unknown."""

    shallow: frozenset[bytes]
    """Ids of the commits whose parents were cut off."""


class UploadPackClient(AbstractHttpGitClient):
    """Fetches from one repository through a guarded connection.

    dulwich's own HTTP client is made for any URL, redirects and proxies; this one asks what the connection allows.

    :param headers: headers of every request, credentials among them.
    :param opening: returns how the first request went, which is under way already.
    :param inspect: is called with the bytes of every ref advertisement as they arrive.
    :param include_tags: ask for the tag objects that point into the fetched history.
    :param most_lines: pkt-lines that the server may send besides those that carry pack bytes and progress; each costs
        time, however short it is.
    """

    def __init__(
        self,
        connection: GuardedConnection,
        *,
        headers: dict[str, str],
        opening: Callable[[], Opening],
        inspect: Callable[[bytes], None],
        include_tags: bool,
        most_lines: int,
    ) -> None:
        super().__init__("", dumb=False, thin_packs=False, include_tags=include_tags)
        self.fetching = False
        """Was the pack asked for?"""
        self._connection: Final = connection
        self._headers: Final = headers
        self._opening: Final = opening
        self._opened = False
        self._inspect: Final = inspect
        self._include_tags: Final = include_tags
        self._reads_left = READS_OF_A_LINE * most_lines

    def receive(
        self,
        determine_wants: Callable[..., list[bytes]],
        write_pack: Callable[[bytes], int],
        *,
        progress: Callable[[bytes], None],
        depth: int | None,
        ref_prefixes: Sequence[bytes],
    ) -> Received:
        """Fetch one pack.

        :raises RemoteProtocolError: the answer is malformed.
        """

        def take(piece: Callable[[bytes], T]) -> Callable[[bytes], T]:
            def taken(data: bytes) -> T:
                self._reads_left += READS_OF_A_LINE
                return piece(data)

            return taken

        with malformed_answers():
            result = self.fetch_pack(
                b"",
                determine_wants,  # type: ignore[arg-type]  # ids and names are NewTypes of bytes
                _EmptyHistory(),
                take(write_pack),
                take(progress),
                depth=depth,
                ref_prefix=ref_prefixes,
            )
            return Received(result.symrefs.get(HEADREF, b""), frozenset(result.new_shallow or ()))

    def has_refs(self, ref_prefixes: Sequence[bytes]) -> bool:
        """Ask whether the repository has any ref with one of these prefixes.

        :raises RemoteProtocolError: the answer is malformed.
        """
        with malformed_answers():
            refs = self.get_refs(b"", ref_prefix=ref_prefixes).refs
            return any(target is not None for target in refs.values())

    def _get_url(self, path: str | bytes) -> str:
        return self._opening().base + "/"

    def _http_request(
        self,
        url: str,
        headers: dict[str, str] | None = None,
        data: bytes | Iterator[bytes] | None = None,
        raise_for_status: bool = True,
    ) -> tuple[Any, Callable[[int], bytes]]:
        if data is None and not self._opened:
            answer, self._opened = self._opening().advertisement, True
        else:
            answer = self._connection.request(
                "GET" if data is None else "POST",
                url,
                {**(headers or {}), **self._headers},
                cast("bytes | None", data),
                inspect=None if self.fetching else self._inspect,
            )
        return answer, self._counted(answer.read)

    def _counted(self, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
        def counted(size: int) -> bytes:
            self._reads_left -= 1
            if self._reads_left < 0:
                raise RemoteProtocolError(reason="too many lines")
            return read(size)

        return counted

    def _smart_request(
        self, service: str, url: str, data: bytes | Iterator[bytes] | None
    ) -> tuple[Any, Callable[[int], bytes]]:
        """Add the arguments that dulwich leaves out in protocol v2: small deltas, and the tags that belong along."""
        body = cast("bytes", data)
        if self.protocol_version != 2:
            self.fetching = True
        elif body.startswith(_COMMAND_FETCH):
            self.fetching = True
            arguments = pkt_line(b"ofs-delta\n") + (pkt_line(b"include-tag\n") if self._include_tags else b"")
            cut = _end_of_capabilities(body)
            body = body[:cut] + arguments + body[cut:]
        return super()._smart_request(service, url, body)


def _end_of_capabilities(request: bytes) -> int:
    """Return where the arguments of a protocol v2 request start."""
    position = 0
    while request[position : position + 4] != _DELIMITER:
        position += int(request[position : position + 4], 16)
    return position + len(_DELIMITER)


class _EmptyHistory:
    """A graph walker (dulwich) that has no commit to offer."""

    def __next__(self) -> None:
        return None

    def ack(self, object_id: bytes) -> None:
        """Do nothing: nothing was offered."""

    def nak(self) -> None:
        """Do nothing: nothing was offered."""


@contextmanager
def malformed_answers() -> Iterator[None]:
    """Turn whatever dulwich makes of a malformed answer into our error; remote text stays out of it.

    :raises RemoteProtocolError: in place of any exception that is not ours.
    """
    try:
        yield
    except (CodeReposError, StoppedEarly):
        raise
    except Exception as error:
        # dulwich lets ValueError, AssertionError, KeyError and others through besides its own errors.
        raise RemoteProtocolError(reason="malformed answer") from error
