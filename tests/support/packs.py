"""Packs made by hand, byte by byte: gitformat-pack(5)."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

TYPES = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}
OFS_DELTA, REF_DELTA = 6, 7

FILE, PROGRAM, LINK, FOLDER, GITLINK = b"100644", b"100755", b"120000", b"40000", b"160000"

AUTHOR = b"A U Thor <author@example.com> 1700000000 +0000"


class Object(NamedTuple):
    """A Git object."""

    kind: str
    content: bytes

    @property
    def id(self) -> str:
        """Its object id in hex."""
        return hashlib.sha1(
            b"%s %d\0" % (self.kind.encode(), len(self.content)) + self.content, usedforsecurity=False
        ).hexdigest()


class Line(NamedTuple):
    """An entry of a tree: its mode as it is written, its name, and the id of its object."""

    mode: bytes
    name: bytes
    object_id: str


def blob(content: bytes = b"content\n") -> Object:
    """Return a blob."""
    return Object("blob", content)


def tree(*lines: Line, is_sorted: bool = True) -> Object:
    """Return a tree of these entries, in the order that Git wants unless told otherwise."""
    if is_sorted:
        lines = tuple(sorted(lines, key=lambda line: line.name + (b"/" if line.mode == FOLDER else b"")))
    return Object("tree", b"".join(b"%s %s\0%s" % (mode, name, bytes.fromhex(one)) for mode, name, one in lines))


def commit(root: Object | str, *parents: str, message: bytes = b"message\n") -> Object:
    """Return a commit of a tree."""
    root_id = root if isinstance(root, str) else root.id
    lines = [b"tree " + root_id.encode(), *(b"parent " + one.encode() for one in parents)]
    return Object("commit", b"\n".join([*lines, b"author " + AUTHOR, b"committer " + AUTHOR, b"", message]))


def tag(target: Object, name: bytes = b"v1") -> Object:
    """Return an annotated tag of an object."""
    return Object(
        "tag",
        b"object %s\ntype %s\ntag %s\ntagger %s\n\nmessage\n"
        % (target.id.encode(), target.kind.encode(), name, AUTHOR),
    )


def entry_header(kind: int, size: int) -> bytes:
    """Return type and size as they stand before an entry."""
    byte, size = kind << 4 | size & 15, size >> 4
    header = bytearray()
    while size:
        header.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    return bytes([*header, byte])


def entry(one: Object, level: int = 6) -> bytes:
    """Return an object as an undeltified entry."""
    return entry_header(TYPES[one.kind], len(one.content)) + zlib.compress(one.content, level)


def varint(number: int) -> bytes:
    """Return a size as it stands at the start of a delta."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def offset(distance: int) -> bytes:
    """Return how far back the base of an offset delta is."""
    out = [distance & 0x7F]
    while distance := distance >> 7:
        distance -= 1
        out.append(0x80 | distance & 0x7F)
    return bytes(reversed(out))


def delta(base_size: int, result_size: int, *instructions: bytes) -> bytes:
    """Return a delta."""
    return varint(base_size) + varint(result_size) + b"".join(instructions)


def copy(start: int, size: int) -> bytes:
    """Return the instruction that copies bytes of the base."""
    instruction, arguments = 0x80, b""
    for bit, byte in enumerate(struct.pack("<I", start)):
        if byte:
            instruction |= 1 << bit
            arguments += bytes([byte])
    for bit, byte in enumerate(struct.pack("<I", size)[:3]):
        if byte:
            instruction |= 0x10 << bit
            arguments += bytes([byte])
    return bytes([instruction]) + arguments


def insert(content: bytes) -> bytes:
    """Return the instructions that insert bytes."""
    pieces = [content[at : at + 127] for at in range(0, len(content), 127)]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces)


def ofs_delta(distance: int, content: bytes, *, declared: int | None = None) -> bytes:
    """Return a delta as an entry whose base starts ``distance`` bytes before it."""
    size = len(content) if declared is None else declared
    return entry_header(OFS_DELTA, size) + offset(distance) + zlib.compress(content)


def ref_delta(base_id: str, content: bytes, *, declared: int | None = None) -> bytes:
    """Return a delta as an entry whose base has this id."""
    size = len(content) if declared is None else declared
    return entry_header(REF_DELTA, size) + bytes.fromhex(base_id) + zlib.compress(content)


def header(count: int, *, version: int = 2, magic: bytes = b"PACK") -> bytes:
    """Return the first twelve bytes of a pack."""
    return struct.pack(">4sII", magic, version, count)


def sealed(content: bytes) -> bytes:
    """Return a pack's bytes with the trailer that belongs to them."""
    return content + hashlib.sha1(content, usedforsecurity=False).digest()


def pack(objects: Iterable[Object] = (), raw: Sequence[bytes] = ()) -> bytes:
    """Return a pack of these objects, then of these entries."""
    entries = [*map(entry, objects), *raw]
    return sealed(header(len(entries)) + b"".join(entries))


def descriptor(content: bytes = b"") -> int:
    """Return a descriptor that reads these bytes, then ends."""
    made = os.memfd_create("pack")
    with os.fdopen(os.dup(made), "wb") as file:
        file.write(content)
    os.lseek(made, 0, os.SEEK_SET)
    return made
