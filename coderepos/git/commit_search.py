"""The child process that finds out whether the pack of a probe contains a commit: a tag may name a blob or a tree.

It has no token and no network, and writes nothing. It reads its request on standard input, a small pack from a pipe,
and writes events to standard output (see :mod:`coderepos.git.wire`). It reads only the
types of the entries. If anything is malformed it finds nothing: the clone will report what is wrong.
"""

from __future__ import annotations

import os
import sys
from typing import Final
from zlib import decompressobj, error

from coderepos.exceptions import CodeReposError, InternalError
from coderepos.git.confinement import profiles
from coderepos.git.limits import SEARCHED_PACK_BYTES
from coderepos.git.pack.pack_file import COMMIT, ID_BYTES, OFS_DELTA, REF_DELTA
from coderepos.git.process.emitter import Emit, emit_to, error_event
from coderepos.git.wire import MESSAGE_BYTES, load_line, search_request

MAX_INFLATED_BYTES: Final = 8 * 10**6

_HEADER_BYTES: Final = 12
_VARINT_BYTES: Final = 10
_PART_BYTES: Final = 1 << 10
_PIECE_BYTES: Final = 1 << 16


def main(pack_fd: int) -> int:
    """Run the child process and return its exit status.

    :param pack_fd: descriptor that gives the pack bytes.
    """
    return run(sys.stdin.buffer.readline(MESSAGE_BYTES + 1), pack_fd, emit_to(sys.stdout.fileno()))


def run(line: bytes, pack_fd: int, emit: Emit) -> int:
    """Confine this process for good, search the pack, and return the exit status."""
    try:
        emit({"event": "started", "isolation": profiles.confine_search(search_request(load_line(line)))})
        emit({"event": "searched", "no_commit": has_no_commit(_read_pack(pack_fd))})
    except CodeReposError as problem:
        emit(error_event(problem))
        return 1
    except Exception as problem:
        emit(error_event(InternalError(), cause=problem))
        return 1
    return 0


def has_no_commit(pack: bytes) -> bool:
    """Return whether this is a whole pack and none of its objects is a commit."""
    if len(pack) > SEARCHED_PACK_BYTES or pack[:4] != b"PACK":
        return False
    at, budget = _HEADER_BYTES, MAX_INFLATED_BYTES
    try:
        for _ in range(int.from_bytes(pack[8:_HEADER_BYTES], "big")):
            kind = pack[at] >> 4 & 7
            if kind == COMMIT:
                return False
            at = _after_varint(pack, at)
            if kind == OFS_DELTA:
                at = _after_varint(pack, at)
            elif kind == REF_DELTA:
                at += ID_BYTES
            at, budget = _after_stream(pack, at, budget)
    except (IndexError, ValueError, error):
        return False
    return at + ID_BYTES == len(pack)


def _read_pack(pack_fd: int) -> bytes:
    """Read the pipe to its end, or one byte past what is searched."""
    pieces, rest = [], SEARCHED_PACK_BYTES + 1
    while rest and (piece := os.read(pack_fd, rest)):
        pieces.append(piece)
        rest -= len(piece)
    return b"".join(pieces)


def _after_varint(pack: bytes, at: int) -> int:
    for byte in pack[at : at + _VARINT_BYTES]:
        at += 1
        if not byte & 0x80:
            return at
    raise ValueError("varint")


def _after_stream(pack: bytes, at: int, budget: int) -> tuple[int, int]:
    stream = decompressobj()
    while not stream.eof:
        part = stream.unconsumed_tail
        if not part:
            part = pack[at : at + _PART_BYTES]
            at += len(part)
        if not part:
            raise ValueError("stream")
        budget -= len(stream.decompress(part, _PIECE_BYTES))
        if budget < 0:
            raise ValueError("inflated bytes")
    return at - len(stream.unused_data), budget
