"""Reads what a server advertises: protocol version, capabilities and refs (gitprotocol-pack(5), gitprotocol-v2(5))."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from coderepos.exceptions import RemoteProtocolError
from coderepos.git.refs import HEAD, SHA256, RefListing
from coderepos.git.transport.pkt_line import PktLines, malformed

_SERVICE: Final = b"# service=git-upload-pack"
_NO_REFS: Final = b"capabilities^{}"
_PEELED: Final = b"^{}"
_UNBORN: Final = b"unborn"
_REF: Final = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) ([^\0 ][^\0]*)\Z")
SHALLOW_LINE: Final = re.compile(rb"shallow ([0-9a-f]{40})\Z")
"""A commit whose parents were cut off; its id is group 1."""


class Advertisement:
    """The protocol version and the capabilities of a server.

    :param version: 2, or 0, which also stands for version 1: it differs from 0 by one line only.
    :param capabilities: values by name; several of one name are joined by spaces, those without a value are empty.
    :param shallow: ids of the commits whose parents the server's own repository lacks; listed in version 0 only.
    """

    def __init__(self, version: int, capabilities: dict[bytes, bytes], shallow: Iterable[bytes] = ()) -> None:
        self.version: Final = version
        self.capabilities: Final = capabilities
        self.shallow: Final = frozenset(shallow)


def read_advertisement(lines: PktLines, refs: RefListing) -> Advertisement:
    """Read the response to the first request.

    :param refs: receives the refs, which version 0 lists here.
    :raises TooManyRefs: there are more than the limit.
    :raises RemoteProtocolError: it is malformed, or of a repository with SHA-256 ids.
    """
    line = lines.line()
    if line == _SERVICE:
        # gitprotocol-http(5) requires this line, but most servers leave it out in version 2.
        if lines.line() is not None or lines.is_delimited:
            raise malformed()
        line = lines.line()
    if line == b"version 2":
        return Advertisement(2, _capabilities(lines.section()))
    if line == b"version 1":
        line = lines.line()
    if line is None:
        # An old server, and an empty repository.
        return Advertisement(0, {})
    first, nul, names = line.partition(b"\0")
    capabilities = _capabilities(names.split()) if nul else {}
    shallow = _read_refs(lines, first, refs)
    for symref in capabilities.get(b"symref", b"").split():
        name, _, target = symref.partition(b":")
        if name == HEAD:
            refs.head_target = target
    return Advertisement(0, capabilities, shallow)


def read_ls_refs(lines: PktLines, refs: RefListing) -> None:
    """Read the response to the command ``ls-refs`` of protocol version 2.

    :param refs: receives the refs.
    :raises TooManyRefs: there are more than the limit.
    :raises RemoteProtocolError: it is malformed.
    """
    for line in lines.section():
        object_id, _, rest = line.partition(b" ")
        name, *attributes = rest.split(b" ")
        if object_id == _UNBORN:
            continue
        if not _REF.match(object_id + b" " + name):
            raise malformed()
        refs.add(name, object_id)
        if name == HEAD:
            for attribute in attributes:
                kind, _, value = attribute.partition(b":")
                if kind == b"symref-target":
                    refs.head_target = value
    if lines.is_delimited:
        raise malformed()


def _capabilities(lines: Iterable[bytes]) -> dict[bytes, bytes]:
    values: dict[bytes, list[bytes]] = {}
    for line in lines:
        name, _, value = line.partition(b"=")
        values.setdefault(name, []).append(value)
    capabilities = {name: b" ".join(filter(None, several)) for name, several in values.items()}
    if b"sha1" not in capabilities.get(b"object-format", b"sha1").split():
        raise RemoteProtocolError(reason=SHA256)
    return capabilities


def _read_refs(lines: PktLines, line: bytes | None, refs: RefListing) -> list[bytes]:
    """Read the refs of protocol version 0, and return the ids of the shallow commits that may follow them."""
    shallow: list[bytes] = []
    if line is not None and line.endswith(b" " + _NO_REFS):
        line = lines.line()
    while line is not None:
        if found := _REF.match(line):
            if shallow:
                raise malformed()
            if found[2].endswith(_PEELED):
                refs.add_peeled(found[1])
            else:
                refs.add(found[2], found[1])
        elif found := SHALLOW_LINE.match(line):
            shallow.append(found[1])
        else:
            raise malformed()
        line = lines.line()
    if lines.is_delimited:
        raise malformed()
    return shallow
