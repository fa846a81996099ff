"""Applies deltas: gitformat-pack(5), "Deltified representation"."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Final

from dulwich.errors import ApplyDeltaError

from coderepos.exceptions import RemoteProtocolError

_VARINT_BYTES: Final = 10
_COPY_BYTES: Final = 0x10000  # what a copy of size 0 means
_COMPILED_BYTES: Final = 32 * 10**6

_compiled: ModuleType | None
try:
    _compiled = import_module("dulwich._pack")
except ImportError:
    # A dulwich that was installed without its extension modules.
    _compiled = None


def delta_sizes(delta: bytes) -> tuple[int, int, int]:
    """Return the size of the base, the size of the result, and where the instructions start.

    :raises RemoteProtocolError: a size is cut off or longer than ten bytes.
    """
    at = 0
    sizes = []
    for _ in range(2):
        size = shift = 0
        for byte in delta[at : at + _VARINT_BYTES]:
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        else:
            raise RemoteProtocolError(reason="header of a delta")
        sizes.append(size)
    return sizes[0], sizes[1], at


def apply_delta(base: bytes, delta: bytes, *, limit: int) -> bytes:
    """Return what ``delta`` makes of ``base``.

    Every size is checked before memory is taken for it. Small results are made by dulwich's compiled code where that
    is installed; it holds up to four copies, so large ones are made here.

    :param limit: most bytes of the result.
    :raises RemoteProtocolError: the delta does not fit its base or reaches outside of it.
    """
    base_bytes, result_bytes, start = delta_sizes(delta)
    if base_bytes != len(base) or result_bytes > limit:
        raise RemoteProtocolError(reason="sizes of a delta")
    if _compiled is None or base_bytes + result_bytes + len(delta) > _COMPILED_BYTES:
        return apply_delta_slowly(base, delta, start, result_bytes)
    try:
        pieces = _compiled.apply_delta(base, delta)
    except ApplyDeltaError:
        raise RemoteProtocolError(reason="instructions of a delta") from None
    result: bytes = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if len(result) != result_bytes:
        raise RemoteProtocolError(reason="instructions of a delta")
    return result


def apply_delta_slowly(base: bytes, delta: bytes, start: int, result_bytes: int) -> bytes:
    """Return what the instructions of ``delta`` from ``start`` make of ``base``, exactly ``result_bytes`` of it.

    :raises RemoteProtocolError: an instruction is cut off, reserved, reaches outside the base or makes too much.
    """
    source = memoryview(base)
    pieces = []
    at, rest, end = start, result_bytes, len(delta)
    try:
        while at < end:
            instruction = delta[at]
            at += 1
            if instruction & 0x80:
                offset = size = 0
                for bit in range(4):
                    if instruction & 1 << bit:
                        offset |= delta[at] << 8 * bit
                        at += 1
                for bit in range(3):
                    if instruction & 0x10 << bit:
                        size |= delta[at] << 8 * bit
                        at += 1
                size = size or _COPY_BYTES
                if offset + size > len(base):
                    raise RemoteProtocolError(reason="instructions of a delta")
                piece = source[offset : offset + size]
            elif instruction:
                size = instruction
                if at + size > end:
                    raise RemoteProtocolError(reason="instructions of a delta")
                piece = memoryview(delta)[at : at + size]
                at += size
            else:
                raise RemoteProtocolError(reason="instructions of a delta")
            rest -= size
            if rest < 0:
                raise RemoteProtocolError(reason="instructions of a delta")
            pieces.append(piece)
    except IndexError:
        raise RemoteProtocolError(reason="instructions of a delta") from None
    if rest:
        raise RemoteProtocolError(reason="instructions of a delta")
    return b"".join(pieces)
