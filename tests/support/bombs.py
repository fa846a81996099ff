"""Small packs of large objects."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cache

from coderepos.git.limits import MB
from tests.support.packs import (
    blob,
    copy,
    delta,
    entry,
    entry_header,
    insert,
    ofs_delta,
)


@cache
def bomb(size: int) -> bytes:
    """Return the zlib stream of so many zeros."""
    squeeze = zlib.compressobj(1)
    piece = bytes(MB)
    return b"".join([squeeze.compress(piece) for _ in range(size // MB)] + [squeeze.flush()])


def doubling(steps: int, start: int) -> Iterator[bytes]:
    """Yield a blob and deltas that each double what they are built on."""
    size, step = start, entry(blob(bytes(start)))
    yield step
    for _ in range(steps):
        copies = b"".join(copy(at, min(65_535, size - at)) for at in range(0, size, 65_535))
        step = ofs_delta(len(step), delta(size, 2 * size, copies, copies))
        size *= 2
        yield step


def wide(count: int, size: int, level: int) -> Iterator[bytes]:
    """Yield a blob of zeros and deltas that copy all of it."""
    base = entry_header(3, size) + bomb(size)
    copies = b"".join(copy(at, min(0xFFFFFF, size - at)) for at in range(0, size, 0xFFFFFF))
    yield base
    distance = len(base)
    for number in range(count):
        made = ofs_delta(distance, delta(size, size + level, copies, insert(bytes([number]) * level)))
        distance += len(made)
        yield made


def tiny_copies() -> bytes:
    """Return a delta of 96 MB that copies one byte at a time."""
    return delta(100 * MB, 48 * MB, (b"\x90\x01") * 48 * MB)
