"""A pack taken apart into what a mutation changes, and put together again."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from tests.support.packs import OFS_DELTA, REF_DELTA, TYPES, entry_header, header, offset, sealed

NAMES: Final = {number: name for name, number in TYPES.items()}
MOST_INFLATED: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a pack."""

    kind: int
    content: bytes
    """Inflated."""

    distance: int = 0
    """How far back the base of an offset delta starts."""

    base: bytes = b""
    """Id of the base of a delta by id."""

    size: int | None = None
    """What the header says where that is not the truth."""

    level: int = 6

    @property
    def object_id(self) -> bytes:
        """Id of the object; of a delta, that of its own bytes, which nobody refers to."""
        name = NAMES.get(self.kind, "delta").encode()
        return hashlib.sha1(b"%s %d\0" % (name, len(self.content)) + self.content, usedforsecurity=False).digest()

    def encoded(self) -> bytes:
        """Return the entry as it stands in a pack."""
        where = self.base if self.kind == REF_DELTA else offset(self.distance) if self.kind == OFS_DELTA else b""
        size = len(self.content) if self.size is None else self.size
        return entry_header(self.kind, size) + where + zlib.compress(self.content, self.level)


def pack_of(entries: Iterable[Entry], *, count: int | None = None) -> bytes:
    """Return a pack; it may say another count than the true one."""
    encoded = [one.encoded() for one in entries]
    return sealed(header(len(encoded) if count is None else count) + b"".join(encoded))


def entries_of(pack: bytes) -> list[Entry]:
    """Return the entries of a pack as far as they can be made out."""
    found: list[Entry] = []
    at, end = 12, len(pack) - 20
    try:
        while at < end:
            kind, at = pack[at] >> 4 & 7, _after(pack, at)
            distance, base = 0, b""
            if kind == OFS_DELTA:
                distance, at = _distance(pack, at)
            elif kind == REF_DELTA:
                base, at = pack[at : at + 20], at + 20
            stream = zlib.decompressobj()
            content = stream.decompress(pack[at:end], MOST_INFLATED)
            if not stream.eof:
                break
            at = end - len(stream.unused_data)
            found.append(Entry(kind=kind, content=content, distance=distance, base=base))
    except (IndexError, zlib.error):
        return found
    return found


def _after(pack: bytes, at: int) -> int:
    while pack[at] & 0x80:
        at += 1
    return at + 1


def _distance(pack: bytes, at: int) -> tuple[int, int]:
    distance = pack[at] & 0x7F
    while pack[at] & 0x80 and distance < 1 << 60:
        at += 1
        distance = (distance + 1 << 7) | (pack[at] & 0x7F)
    return distance, at + 1


def wanted_of(entries: list[Entry]) -> str:
    """Return the id of the last tag or commit, which a fetch would have asked for."""
    heads = [one.object_id.hex() for one in entries if one.kind in (TYPES["commit"], TYPES["tag"])]
    return heads[-1] if heads else "1" * 40


def relinked(entries: list[Entry], position: int, content: bytes) -> list[Entry]:
    """Return the entries with one changed, and all that refer to it by its id referring to the new one.

    A mutation would otherwise cut off what it changed: nothing of it were ever read.
    """
    result = list(entries)
    result[position] = replace(entries[position], content=content)
    renamed = {entries[position].object_id: result[position].object_id}
    for _ in entries:
        before = dict(renamed)
        for at, one in enumerate(result):
            changed = one.content
            for old, new in before.items():
                changed = changed.replace(old, new).replace(old.hex().encode(), new.hex().encode())
            base = before.get(one.base, one.base)
            if changed != one.content or base != one.base:
                result[at] = replace(one, content=changed, base=base)
                renamed[one.object_id] = result[at].object_id
        if renamed == before:
            break
    return result
