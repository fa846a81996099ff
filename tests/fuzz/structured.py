"""Makes packs whose entries refer to each other in every way that the format has words for, valid or not.

Each entry holds an object of a small pool, so that one object often comes twice: whole, as a delta by offset, as one
by its id, in any order, with chains, cycles by id, and bases that come later or not at all.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Final

from tests.support.packs import OFS_DELTA, REF_DELTA, TYPES, Object, copy, header, insert, offset, sealed, varint

_COMMIT: Final = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor a <a> 1 +0000\ncommitter a <a> 1 +0000\n\n"


@dataclass(frozen=True)
class _Written:
    """An entry that is already in the pack."""

    start: int
    one: Object


def structured(chance: random.Random) -> bytes:
    """Return a pack; more than half of them have nothing wrong but, perhaps, how entries refer to each other."""
    pool = _pool(chance)
    faults = _FAULTS if chance.random() < 0.35 else ()
    count = chance.choice((0, 1, 2, 3, 3, 4, 4, 5, 6, 8, 12))
    body = bytearray()
    written: list[_Written] = []
    forms = chance.choice(("whole ofs", "whole ref ref", "whole whole ofs ref", "whole ofs ofs ref ref", "ref")).split()
    plan: list[tuple[str, Object]] = [(chance.choice(forms), chance.choice(pool)) for _ in range(count)]
    if plan and chance.random() < 0.7:
        plan[chance.randrange(count)] = ("whole", chance.choice(pool))
    for form, one in plan:
        start = 12 + len(body)
        fault = chance.choice(faults) if faults and chance.random() < 0.3 else ""
        body += _entry(form, one, start, written, pool, fault, chance)
        written.append(_Written(start, one))
    return _finished(bytes(body), count, chance if faults else None)


def random_delta(base: bytes, target: bytes, chance: random.Random) -> bytes:
    """Return a delta that makes ``target`` of ``base``, by copies where there is something to copy."""
    instructions, at = b"", 0
    while at < len(target):
        size = chance.randrange(1, 130)
        piece = target[at : at + size]
        found = base.find(piece)
        if found >= 0 and chance.random() < 0.8:
            instructions += copy(found, len(piece))
        else:
            instructions += insert(piece)
        at += len(piece)
    return varint(len(base)) + varint(len(target)) + instructions


def broken_delta(base: bytes, target: bytes, chance: random.Random) -> bytes:
    """Return something like a delta of ``base``: sizes, instructions and ends that may not fit."""
    instructions, made = b"", 0
    for _ in range(chance.randrange(5)):
        kind = chance.random()
        if kind < 0.45:
            start, size = chance.randrange(len(base) + 3), chance.choice((0, 1, 3, 5, len(base)))
            piece = copy(start, size)
            made += size or 0x10000
            instructions += piece[: chance.randrange(1, len(piece) + 1)] if chance.random() < 0.1 else piece
        elif kind < 0.95:
            size = chance.randrange(1, 8)
            made += size
            instructions += bytes([size]) + chance.randbytes(size - (chance.random() < 0.1))
        else:
            instructions += bytes([chance.randrange(256)])
    base_bytes = len(base) + chance.choice((0, 0, 0, 0, 0, 0, 1, -1, 5))
    result_bytes = chance.choice((made, made, made, made, len(target), made + 1, made - 1, 0))
    return _any_varint(max(0, base_bytes), chance) + _any_varint(max(0, result_bytes), chance) + instructions


def _pool(chance: random.Random) -> list[Object]:
    text = b"".join(b"line %d\n" % chance.randrange(30) for _ in range(chance.choice((1, 3, 20))))
    contents = [text, text + b"more\n", text[: len(text) // 2], b"", b"a", b"b", b"tree", _COMMIT, bytes(70_000)]
    kinds = chance.choice((("blob",), ("blob", "tree", "commit", "tag")))
    chosen = chance.sample(contents, chance.randrange(1, 5))
    return [Object(chance.choice(kinds), content) for content in chosen]


def _entry(
    form: str,
    one: Object,
    start: int,
    written: list[_Written],
    pool: list[Object],
    fault: str,
    chance: random.Random,
) -> bytes:
    if form == "ofs" and written:
        base = chance.choice(written)
        kind, where, source = OFS_DELTA, offset(start - base.start), base.one.content
        if fault == "distance":
            where = offset(max(0, start - base.start + chance.choice((-1, 1, 12, start, 2**31))))
        elif fault == "long distance":
            where = b"\x80" * chance.choice((1, 2, 9, 12)) + where
    elif form == "ref":
        known = chance.choice(pool)
        kind, where, source = REF_DELTA, bytes.fromhex(known.id), known.content
        if fault == "thin":
            where = chance.choice((chance.randbytes(20), bytes.fromhex(Object("tree", b"").id)))
    else:
        kind, where, source = TYPES[one.kind], b"", b""
        if fault == "type":
            kind = chance.choice((0, 5, *TYPES.values()))
    content = one.content
    if kind >= OFS_DELTA:
        make = broken_delta if fault == "delta" else random_delta
        content = make(source, content, chance)
        if fault == "cut delta":
            content = content[: chance.randrange(len(content) + 1)]
    size = len(content)
    if fault == "size":
        size = max(0, size + chance.choice((-1, 1, 15, 16, 2**20)))
    head = _entry_header(kind, size, chance.choice((1, 2, 6, 8, 9, 10, 12)) if fault == "long size" else 0)
    return head + where + _compressed(content, fault, chance)


def _entry_header(kind: int, size: int, padding: int) -> bytes:
    """Return an entry's type and size, with as many bytes that say nothing in the end."""
    byte, size = kind << 4 | size & 15, size >> 4
    made = bytearray()
    while size:
        made.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    made.append(byte)
    for _ in range(padding):
        made[-1] |= 0x80
        made.append(0)
    return bytes(made)


def _compressed(content: bytes, fault: str, chance: random.Random) -> bytes:
    level = chance.choice((0, 1, 6, 9))
    if fault == "dictionary":
        deflate = zlib.compressobj(level, zdict=b"line")
        return deflate.compress(content) + deflate.flush()
    if fault == "flushed":
        deflate = zlib.compressobj(level)
        pieces = [deflate.compress(content[at : at + 5]) + deflate.flush(zlib.Z_FULL_FLUSH) for at in range(0, 20, 5)]
        return b"".join(pieces) + deflate.compress(content[20:]) + deflate.flush()
    if fault == "raw":
        deflate = zlib.compressobj(level, wbits=chance.choice((-15, 31, 9)))
        return deflate.compress(content) + deflate.flush()
    data = zlib.compress(content, level)
    if fault == "checksum":
        return data[:-4] + chance.choice((b"", data[-4:-1], b"\0\0\0\0"))
    if fault == "stream":
        at = chance.randrange(len(data))
        return chance.choice((data[:at], data + b"\0", data + data, data[:at] + b"\xff" + data[at + 1 :]))
    return data


def _finished(body: bytes, count: int, chance: random.Random | None) -> bytes:
    if chance is None or chance.random() < 0.7:
        return sealed(header(count, version=2) + body)
    version = chance.choice((2, 2, 2, 3, 0, 1, 4))
    said = chance.choice((count, count, count + 1, max(0, count - 1), 0))
    made = sealed(header(said, version=version) + body)
    return chance.choice((made, made, made, made[:-1], made + b"\0", made[:-20] + bytes(20), made + made))


def _any_varint(number: int, chance: random.Random) -> bytes:
    made = bytearray(varint(number))
    for _ in range(chance.choice((0, 0, 0, 0, 0, 1, 2, 7, 8, 9, 12))):
        made[-1] |= 0x80
        made.append(0)
    return bytes(made)


_FAULTS: Final = (
    "delta",
    "delta",
    "delta",
    "cut delta",
    "size",
    "long size",
    "distance",
    "long distance",
    "thin",
    "thin",
    "type",
    "dictionary",
    "flushed",
    "raw",
    "checksum",
    "stream",
)
