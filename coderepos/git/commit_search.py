"""Tells a probe whether there is a commit in the pack that it counts: a tag may name a blob or a tree.

It looks at the types of the entries alone, and only into small packs of refs that need not be branches. Where anything
is not as it should be it knows nothing: the clone says what is wrong.
"""

from __future__ import annotations

from zlib import decompressobj, error

from coderepos.git.pack import COMMIT, ID_BYTES, OFS_DELTA, REF_DELTA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MOST_BYTES: Final = 256 * 1024
"""Longest pack that is looked into."""

MOST_INFLATED_BYTES: Final = 8 * 10**6

_HEADER_BYTES: Final = 12
_VARINT_BYTES: Final = 10
_PART_BYTES: Final = 1 << 10
_PIECE_BYTES: Final = 1 << 16


class CommitSearch:
    """Takes the bytes of a pack as long as they are few."""

    def __init__(self) -> None:
        self._pack = bytearray()
        self._is_small = True

    def take(self, parts: list[memoryview]) -> None:
        """Take the next bytes."""
        if self._is_small:
            for part in parts:
                self._pack += part
            self._is_small = len(self._pack) <= MOST_BYTES
        else:
            self._pack.clear()

    def found_none(self) -> bool:
        """Whether this is a whole pack and none of its objects is a commit."""
        if not self._is_small or self._pack[:4] != b"PACK":
            return False
        at, budget = _HEADER_BYTES, MOST_INFLATED_BYTES
        try:
            for _ in range(int.from_bytes(self._pack[8:_HEADER_BYTES], "big")):
                kind = self._pack[at] >> 4 & 7
                if kind == COMMIT:
                    return False
                at = self._after_varint(at)
                if kind == OFS_DELTA:
                    at = self._after_varint(at)
                elif kind == REF_DELTA:
                    at += ID_BYTES
                at, budget = self._after_stream(at, budget)
        except (IndexError, ValueError, error):
            return False
        return at + ID_BYTES == len(self._pack)

    def _after_varint(self, at: int) -> int:
        for byte in self._pack[at : at + _VARINT_BYTES]:
            at += 1
            if not byte & 0x80:
                return at
        raise ValueError("varint")

    def _after_stream(self, at: int, budget: int) -> tuple[int, int]:
        stream = decompressobj()
        while not stream.eof:
            part = stream.unconsumed_tail
            if not part:
                part = bytes(self._pack[at : at + _PART_BYTES])
                at += len(part)
            if not part:
                raise ValueError("stream")
            budget -= len(stream.decompress(part, _PIECE_BYTES))
            if budget < 0:
                raise ValueError("inflated bytes")
        return at - len(stream.unused_data), budget
