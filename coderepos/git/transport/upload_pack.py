"""The client's side of fetching from one repository over smart HTTP, in protocol version 2 and in that before it.

Sources: gitprotocol-v2(5), gitprotocol-pack(5), gitprotocol-capabilities(5) and gitprotocol-http(5).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from coderepos.exceptions import GitError, RemoteProtocolError
from coderepos.git.limits import Limits
from coderepos.git.refs import RefListing
from coderepos.git.transport.advertisement import read_advertisement, read_ls_refs
from coderepos.git.transport.discovery import RESULT, Opening
from coderepos.git.transport.http_connection import NOT_SERVED, USER_AGENT, Answer, GuardedConnection
from coderepos.git.transport.pack_sink import PackWriter
from coderepos.git.transport.pkt_line import DELIM_PKT, FLUSH_PKT, TOO_MANY_LINES, PktLines, malformed, pkt_line

NO_SHALLOW: Final = "no shallow clones"
"""Reason of the error for a depth that the server does not know about."""

MOST_SHALLOW: Final = 80_000
"""Most commits that history may end at: with all tags they have to fit into one message."""

_ALLOWS_IDS: Final = (b"allow-tip-sha1-in-want", b"allow-reachable-sha1-in-want")
_AGENT: Final = b"agent=" + USER_AGENT.encode()
_SHALLOW: Final = re.compile(rb"shallow ([0-9a-f]{40})\Z")
_ACK: Final = re.compile(rb"NAK\Z|ACK [0-9a-f]{40}( continue| common| ready)?\Z")

_SECTIONS: Final = (b"acknowledgments", b"shallow-info", b"wanted-refs", b"packfile-uris", b"packfile")
"""Of an answer to ``fetch``, in their order, each at most once."""


class UploadPackClient:
    """Fetches from one repository through a guarded connection.

    :param opening: the first request and its answer.
    :param headers: headers of every further request, credentials among them.
    :param refs: takes the refs, where they come along with the first answer.
    :param remote_error: makes the error of what the server reports, out of its text.
    :raises GitError: the one for an error that the server reports, like every method.
    """

    def __init__(
        self,
        connection: GuardedConnection,
        opening: Opening,
        headers: Mapping[str, str],
        limits: Limits,
        refs: RefListing,
        *,
        remote_error: Callable[[bytes], GitError],
    ) -> None:
        self.is_fetching = False
        """Whether the pack was asked for."""
        self._connection: Final = connection
        self._url: Final = f"{opening.base}/git-upload-pack"
        self._headers: Final = headers
        self._remote_error: Final = remote_error
        self._most_refs: Final = limits.refs
        self._advertisement: Final = read_advertisement(self._listing(opening.advertisement), refs)

    @property
    def lists_on_request(self) -> bool:
        """Whether refs are listed only when they are asked for, as in protocol version 2."""
        return self._advertisement.version == 2

    @property
    def tells_unborn_head(self) -> bool:
        """Whether the server says where an unlisted HEAD points, so that it is known to lead nowhere."""
        return self.lists_on_request and b"unborn" in self._advertisement.capabilities.get(b"ls-refs", b"").split()

    @property
    def knows_depth(self) -> bool:
        """Whether the server can cut history off."""
        capabilities = self._advertisement.capabilities
        told = capabilities.get(b"fetch", b"").split() if self.lists_on_request else capabilities
        return b"shallow" in told

    @property
    def gives_hidden_commits(self) -> bool:
        """May a commit be asked for that no ref names? As fetch-pack of Git decides it."""
        return self.lists_on_request or any(name in self._advertisement.capabilities for name in _ALLOWS_IDS)

    def list_refs(self, refs: RefListing, prefixes: Sequence[bytes]) -> None:
        """Ask for the refs with one of these prefixes; in protocol version 0 they have come already.

        :raises TooManyRefs: there are more than the limit.
        :raises RemoteProtocolError: the answer is malformed.
        """
        if self.lists_on_request:
            arguments = [b"symrefs", *(b"ref-prefix " + prefix for prefix in prefixes)]
            lines = self._listing(self._post(self._command(b"ls-refs", arguments)))
            try:
                read_ls_refs(lines, refs)
            except GitError:
                # What is left of the answer must not be waited for: a part of it may be lost.
                self._connection.close()
                raise

    def fetch(self, wanted_id: bytes, writer: PackWriter, *, depth: int | None, with_tags: bool) -> frozenset[bytes]:
        """Fetch what a commit or tag reaches, and return the ids of the commits whose parents were cut off.

        :param writer: takes the pack.
        :param with_tags: ask for the tag objects that point into the fetched history.
        :raises RemoteProtocolError: the answer is malformed, or the server knows no depth.
        """
        if depth and not self.knows_depth:
            raise RemoteProtocolError(reason=NO_SHALLOW)
        if self.lists_on_request:
            return self._fetch_v2(wanted_id, writer, depth=depth, with_tags=with_tags)
        return self._fetch_v0(wanted_id, writer, depth=depth, with_tags=with_tags)

    def _fetch_v2(
        self, wanted_id: bytes, writer: PackWriter, *, depth: int | None, with_tags: bool
    ) -> frozenset[bytes]:
        arguments = [b"ofs-delta", *([b"include-tag"] if with_tags else []), *([b"deepen %d" % depth] if depth else [])]
        lines = self._answer(self._command(b"fetch", [*arguments, b"want " + wanted_id, b"done"]))
        shallow: frozenset[bytes] = frozenset()
        possible = iter(_SECTIONS)
        while (name := lines.line()) != b"packfile":
            # Membership takes what it passes over out of the iterator, so no section comes late or twice.
            if name is None or name not in possible:
                raise malformed()
            if name == b"packfile-uris":
                raise RemoteProtocolError(reason=NOT_SERVED)
            if name == b"shallow-info":
                shallow = _shallow_commits(lines)
            else:
                for _ in lines.section():
                    continue
            if not lines.is_delimited:
                raise malformed()
        lines.side_bands(writer.write)
        return shallow

    def _fetch_v0(
        self, wanted_id: bytes, writer: PackWriter, *, depth: int | None, with_tags: bool
    ) -> frozenset[bytes]:
        offered = self._advertisement.capabilities
        asked = _capabilities_to_ask_for(offered, with_tags=with_tags)
        wants = pkt_line(b" ".join([b"want " + wanted_id, *asked])) + (pkt_line(b"deepen %d" % depth) if depth else b"")
        shallow = _not_too_many(self._advertisement.shallow)
        lines = self._answer(wants + FLUSH_PKT + pkt_line(b"done"))
        if depth:
            # The answer tells all of them; what the repository itself lacks is told with the refs for other requests.
            shallow = _shallow_commits(lines)
            if lines.is_delimited:
                raise malformed()
        _skip_acknowledgements(lines)
        if b"side-band-64k" in asked or b"side-band" in asked:
            lines.side_bands(writer.write)
        else:
            lines.rest(writer.write)
        return shallow

    def _command(self, name: bytes, arguments: Iterable[bytes]) -> bytes:
        """Return a request of protocol version 2.

        :raises RemoteProtocolError: the server does not know the command.
        """
        capabilities = self._advertisement.capabilities
        if name not in capabilities:
            raise malformed()
        told = [_AGENT] if b"agent" in capabilities else []
        if b"object-format" in capabilities:
            told.append(b"object-format=sha1")
        head = b"".join(map(pkt_line, [b"command=" + name, *told]))
        return head + DELIM_PKT + b"".join(map(pkt_line, arguments)) + FLUSH_PKT

    def _answer(self, request: bytes) -> PktLines:
        self.is_fetching = True
        return self._lines(self._post(request), 2 * self._most_refs + 1_000)

    def _post(self, body: bytes) -> Answer:
        headers = {"Content-Type": "application/x-git-upload-pack-request", "Accept": RESULT, **self._headers}
        if self._advertisement.version == 2:
            headers["Git-Protocol"] = "version=2"
        return self._connection.request("POST", self._url, headers, body)

    def _listing(self, answer: Answer) -> PktLines:
        # In version 0 every annotated tag has two lines; how many refs are read is for the listing to say.
        return self._lines(answer, 4 * self._most_refs + 1_000)

    def _lines(self, answer: Answer, most_lines: int) -> PktLines:
        return PktLines(answer, most_lines=most_lines, remote_error=self._remote_error)


def _capabilities_to_ask_for(offered: Mapping[bytes, bytes], *, with_tags: bool) -> list[bytes]:
    """Return what a request of protocol version 0 names.

    Azure DevOps refuses requests that name no ``multi_ack``, and dulwich's server those that name no ``thin-pack``: a
    pack for whom has nothing is never thin.
    """
    asked = [
        *[name for name in (b"multi_ack_detailed", b"multi_ack") if name in offered][:1],
        *[name for name in (b"side-band-64k", b"side-band") if name in offered][:1],
        *[name for name in (b"thin-pack", b"ofs-delta", b"shallow", b"no-done") if name in offered],
    ]
    if with_tags and b"include-tag" in offered:
        asked.append(b"include-tag")
    if b"object-format" in offered:
        asked.append(b"object-format=sha1")
    if b"agent" in offered:
        asked.append(_AGENT)
    return asked


def _shallow_commits(lines: PktLines) -> frozenset[bytes]:
    """Return the commits that history is cut off at, as a section tells them.

    In version 2 a repository that lacks history itself tells them unasked, and ``git clone`` takes that as well.
    ``unshallow`` is refused, as Git refuses it of whoever has nothing.

    :raises RemoteProtocolError: a line is malformed, or there are too many.
    """
    found = [_SHALLOW.match(line) for line in lines.section()]
    if not all(found):
        raise malformed()
    return _not_too_many(frozenset(one[1] for one in found if one))


def _not_too_many(shallow: frozenset[bytes]) -> frozenset[bytes]:
    if len(shallow) > MOST_SHALLOW:
        raise RemoteProtocolError(reason=TOO_MANY_LINES)
    return shallow


def _skip_acknowledgements(lines: PktLines) -> None:
    """Read to the last word of a negotiation in which nothing was offered."""
    while True:
        found = _ACK.match(lines.line() or b"")
        if found is None:
            raise malformed()
        if not found[1]:
            return
