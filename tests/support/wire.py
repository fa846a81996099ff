"""A connection that gives its bytes away in pieces of any size."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat

from coderepos.git.transport.http_reader import (
    READ_BYTES,
)


class Wire:
    """Gives bytes away in receives of these sizes, then ends; counts what is counted."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data = data
        self.counted_bytes = 0
        self.receives = 0
        self._sizes: Iterator[int] = chain(sizes, repeat(READ_BYTES))

    def receive_into(self, buffer: memoryview) -> int:
        self.receives += 1
        size = min(next(self._sizes), len(buffer), len(self.data))
        buffer[:size], self.data = self.data[:size], self.data[size:]
        return size

    def count(self, size: int) -> None:
        self.counted_bytes += size
