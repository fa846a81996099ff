"""A client for fetching from one repository over smart HTTP, in protocol versions 0, 1 and 2.

Sources: gitprotocol-v2(5), gitprotocol-pack(5), gitprotocol-capabilities(5) and gitprotocol-http(5).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from coderepos.exceptions import GitError, RemoteProtocolError
from coderepos.git.limits import Limits
from coderepos.git.refs import RefListing
from coderepos.git.transport.advertisement import SHALLOW_LINE, read_advertisement, read_ls_refs
from coderepos.git.transport.discovery import RESULT, Discovery
from coderepos.git.transport.http_connection import NOT_ALLOWLISTED, USER_AGENT, GuardedConnection, Response
from coderepos.git.transport.pack_sink import PackSink
from coderepos.git.transport.pkt_line import DELIM_PKT, FLUSH_PKT, TOO_MANY_LINES, PktLines, malformed, pkt_line

NO_SHALLOW: Final = "no shallow clones"
"""Reason of the error for a depth where the server does not support shallow clones."""

MAX_SHALLOW: Final = 80_000
"""Most shallow commits: with all tags they have to fit into one message."""

_ALLOWS_IDS: Final = (b"allow-tip-sha1-in-want", b"allow-reachable-sha1-in-want")
_AGENT: Final = b"agent=" + USER_AGENT.encode()
_ACK: Final = re.compile(rb"NAK\Z|ACK [0-9a-f]{40}( continue| common| ready)?\Z")

_SECTIONS: Final = (b"acknowledgments", b"shallow-info", b"wanted-refs", b"packfile-uris", b"packfile")
"""Sections of a response to ``fetch`` in their order, each at most once."""


class UploadPackClient:
    """Fetches from one repository through a guarded connection.

    :param discovery: where the repository is, and its advertisement.
    :param headers: headers of every further request, including the credentials.
    :param refs: receives the refs that the advertisement lists.
    :param remote_error: returns the error for an error message of the server.
    :raises GitError: the server reports an error; every method may raise this.
    """

    def __init__(
        self,
        connection: GuardedConnection,
        discovery: Discovery,
        headers: Mapping[str, str],
        limits: Limits,
        refs: RefListing,
        *,
        remote_error: Callable[[bytes], GitError],
    ) -> None:
        self.is_fetching = False
        """Whether the pack was requested."""
        self._connection: Final = connection
        self._url: Final = f"{discovery.base}/git-upload-pack"
        self._headers: Final = headers
        self._remote_error: Final = remote_error
        self._max_refs: Final = limits.refs
        self._advertisement: Final = read_advertisement(self._listing(discovery.advertisement), refs)

    @property
    def lists_refs_on_request(self) -> bool:
        """Whether refs are listed only on request, as in protocol version 2."""
        return self._advertisement.version == 2

    @property
    def reports_unborn_head(self) -> bool:
        """Whether the server would report where HEAD points if its branch does not exist yet."""
        return self.lists_refs_on_request and b"unborn" in self._advertisement.capabilities.get(b"ls-refs", b"").split()

    @property
    def supports_shallow(self) -> bool:
        """Whether the server supports shallow clones."""
        capabilities = self._advertisement.capabilities
        features = capabilities.get(b"fetch", b"").split() if self.lists_refs_on_request else capabilities
        return b"shallow" in features

    @property
    def serves_unadvertised_commits(self) -> bool:
        """Whether a commit may be requested that no ref names, as Git's fetch-pack decides it."""
        return self.lists_refs_on_request or any(name in self._advertisement.capabilities for name in _ALLOWS_IDS)

    def list_refs(self, refs: RefListing, prefixes: Sequence[bytes]) -> None:
        """List the refs with one of these prefixes; in protocol version 0 the advertisement has listed all.

        :raises TooManyRefs: there are more than the limit.
        :raises RemoteProtocolError: the response is malformed.
        """
        if self.lists_refs_on_request:
            arguments = [b"symrefs", *(b"ref-prefix " + prefix for prefix in prefixes)]
            lines = self._listing(self._post(self._command(b"ls-refs", arguments)))
            try:
                read_ls_refs(lines, refs)
            except GitError:
                # The rest of the response cannot be skipped: part of it may be lost.
                self._connection.close()
                raise

    def fetch(self, wanted_id: bytes, sink: PackSink, *, depth: int | None, with_tags: bool) -> frozenset[bytes]:
        """Fetch everything reachable from a commit or tag, and return the ids of the shallow commits.

        :param sink: takes the pack.
        :param with_tags: whether to request the tag objects that point into the fetched history.
        :raises RemoteProtocolError: the response is malformed, or the server does not support shallow clones.
        """
        if depth and not self.supports_shallow:
            raise RemoteProtocolError(reason=NO_SHALLOW)
        if self.lists_refs_on_request:
            return self._fetch_v2(wanted_id, sink, depth=depth, with_tags=with_tags)
        return self._fetch_v0(wanted_id, sink, depth=depth, with_tags=with_tags)

    def _fetch_v2(self, wanted_id: bytes, sink: PackSink, *, depth: int | None, with_tags: bool) -> frozenset[bytes]:
        arguments = [b"ofs-delta", *([b"include-tag"] if with_tags else []), *([b"deepen %d" % depth] if depth else [])]
        lines = self._request_pack(self._command(b"fetch", [*arguments, b"want " + wanted_id, b"done"]))
        shallow: frozenset[bytes] = frozenset()
        possible = iter(_SECTIONS)
        while (name := lines.line()) != b"packfile":
            # "in" consumes the iterator, so that a section out of order or repeated is not found.
            if name is None or name not in possible:
                raise malformed()
            if name == b"packfile-uris":
                raise RemoteProtocolError(reason=NOT_ALLOWLISTED)
            if name == b"shallow-info":
                shallow = _shallow_commits(lines)
            else:
                for _ in lines.section():
                    continue
            if not lines.is_delimited:
                raise malformed()
        lines.side_bands(sink.write)
        return shallow

    def _fetch_v0(self, wanted_id: bytes, sink: PackSink, *, depth: int | None, with_tags: bool) -> frozenset[bytes]:
        offered = self._advertisement.capabilities
        requested = _capabilities_to_request(offered, with_tags=with_tags)
        wants = pkt_line(b" ".join([b"want " + wanted_id, *requested]))
        if depth:
            wants += pkt_line(b"deepen %d" % depth)
        shallow = _not_too_many(self._advertisement.shallow)
        lines = self._request_pack(wants + FLUSH_PKT + pkt_line(b"done"))
        if depth:
            # This response lists all of them; those in the advertisement are for requests without a depth.
            shallow = _shallow_commits(lines)
            if lines.is_delimited:
                raise malformed()
        _skip_acknowledgements(lines)
        if b"side-band-64k" in requested or b"side-band" in requested:
            lines.side_bands(sink.write)
        else:
            lines.rest(sink.write)
        return shallow

    def _command(self, name: bytes, arguments: Iterable[bytes]) -> bytes:
        """Return a request of protocol version 2.

        :raises RemoteProtocolError: the server does not advertise the command.
        """
        capabilities = self._advertisement.capabilities
        if name not in capabilities:
            raise malformed()
        client = [_AGENT] if b"agent" in capabilities else []
        if b"object-format" in capabilities:
            client.append(b"object-format=sha1")
        head = b"".join(map(pkt_line, [b"command=" + name, *client]))
        return head + DELIM_PKT + b"".join(map(pkt_line, arguments)) + FLUSH_PKT

    def _request_pack(self, request: bytes) -> PktLines:
        self.is_fetching = True
        return self._lines(self._post(request), 2 * self._max_refs + 1_000)

    def _post(self, body: bytes) -> Response:
        headers = {"Content-Type": "application/x-git-upload-pack-request", "Accept": RESULT, **self._headers}
        if self._advertisement.version == 2:
            headers["Git-Protocol"] = "version=2"
        return self._connection.request("POST", self._url, headers, body)

    def _listing(self, response: Response) -> PktLines:
        # In version 0 an annotated tag has two lines. The exact limit of refs is enforced by the listing.
        return self._lines(response, 4 * self._max_refs + 1_000)

    def _lines(self, response: Response, max_lines: int) -> PktLines:
        return PktLines(response, max_lines=max_lines, remote_error=self._remote_error)


def _capabilities_to_request(offered: Mapping[bytes, bytes], *, with_tags: bool) -> list[bytes]:
    """Return the capabilities that a request of protocol version 0 names.

    Azure DevOps refuses requests without ``multi_ack``, and dulwich's server those without ``thin-pack``, which is
    harmless: a pack for a client that has no objects is never thin.
    """
    requested = [
        *[name for name in (b"multi_ack_detailed", b"multi_ack") if name in offered][:1],
        *[name for name in (b"side-band-64k", b"side-band") if name in offered][:1],
        *[name for name in (b"thin-pack", b"ofs-delta", b"shallow", b"no-done") if name in offered],
    ]
    if with_tags and b"include-tag" in offered:
        requested.append(b"include-tag")
    if b"object-format" in offered:
        requested.append(b"object-format=sha1")
    if b"agent" in offered:
        requested.append(_AGENT)
    return requested


def _shallow_commits(lines: PktLines) -> frozenset[bytes]:
    """Return the ids of the shallow commits in a section.

    In version 2 a server whose own repository is shallow sends them unrequested, and ``git clone`` accepts that.
    ``unshallow`` is refused, as Git refuses it in a first clone.

    :raises RemoteProtocolError: a line is malformed, or there are too many.
    """
    found = [SHALLOW_LINE.match(line) for line in lines.section()]
    if not all(found):
        raise malformed()
    return _not_too_many(frozenset(one[1] for one in found if one))


def _not_too_many(shallow: frozenset[bytes]) -> frozenset[bytes]:
    if len(shallow) > MAX_SHALLOW:
        raise RemoteProtocolError(reason=TOO_MANY_LINES)
    return shallow


def _skip_acknowledgements(lines: PktLines) -> None:
    """Skip the acknowledgements up to the final one; as no commit was offered, they say nothing."""
    while True:
        found = _ACK.match(lines.line() or b"")
        if found is None:
            raise malformed()
        if not found[1]:
            return
