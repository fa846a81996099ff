"""Writes to file descriptors."""

from __future__ import annotations

import os


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all bytes to a descriptor, however many calls it takes.

    :raises OSError: a write fails; with ``BlockingIOError`` or ``BrokenPipeError`` some bytes may have been written.
    """
    written = os.write(descriptor, data)
    if written < len(data):
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]
