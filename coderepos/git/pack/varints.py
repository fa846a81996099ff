"""Decodes the variable-length integers of packs and deltas: gitformat-pack(5), "Size encoding" and "Pack entries".

Each takes a buffer and the place to read from, and returns the number and the place after it. A number that is cut off
raises :class:`IndexError`: the caller knows what ended too early.
"""

from __future__ import annotations

from typing import Final

from coderepos.exceptions import RemoteProtocolError

VARINT_BYTES: Final = 10
"""Longest number that is read: it holds 64 bits."""


def read_entry_size(buffer: bytes, at: int, low_bits: int) -> tuple[int, int]:
    """Return the size of an entry whose header goes on after its second byte.

    :param low_bits: the eleven bits that are known from the first two bytes.
    :raises RemoteProtocolError: it is longer than ten bytes.
    """
    size, shift = low_bits, 11
    while True:
        byte = buffer[at]
        at += 1
        size |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return size, at
        shift += 7
        if shift > 7 * VARINT_BYTES - 7:
            raise RemoteProtocolError(reason="size of an entry")


def read_base_distance(buffer: bytes, at: int) -> tuple[int, int]:
    """Return how many bytes before a delta's entry its base starts.

    :raises RemoteProtocolError: it is longer than eleven bytes.
    """
    distance, end = -1, at + VARINT_BYTES + 1
    while at < end:
        byte = buffer[at]
        at += 1
        distance = (distance + 1 << 7) | (byte & 0x7F)
        if not byte & 0x80:
            return distance, at
    raise RemoteProtocolError(reason="offset of a delta base")


def read_size(delta: bytes, at: int) -> tuple[int, int]:
    """Return one of the two sizes at the start of a delta.

    :raises RemoteProtocolError: it is longer than ten bytes.
    """
    byte = delta[at]
    size, shift = byte & 0x7F, 7
    while byte & 0x80:
        at += 1
        if shift == 7 * VARINT_BYTES:
            raise RemoteProtocolError(reason="header of a delta")
        byte = delta[at]
        size |= (byte & 0x7F) << shift
        shift += 7
    return size, at + 1
