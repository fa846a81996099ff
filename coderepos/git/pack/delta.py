"""Applies deltas: gitformat-pack(5), "Deltified representation"."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Final

from dulwich.errors import ApplyDeltaError

from coderepos.exceptions import ObjectTooLarge, RemoteProtocolError
from coderepos.git.pack.varints import read_size

LARGE_BYTES: Final = 16 * 10**6
"""Larger objects and deltas are handled in pieces, with one copy of each at a time."""

DELTA_OVERHEAD_BYTES: Final = 8_000
"""Fixed overhead charged per delta, in bytes of its result: applying one takes as long as hashing so many."""

_MIN_BYTES: Final = 4  # DELTA_SIZE_MIN in Git's delta.h, which holds for an empty result too
_COPY_BYTES: Final = 0x10000  # of a copy whose size is given as 0
_MAX_INSTRUCTION_BYTES: Final = 128
_MAX_INSTRUCTIONS: Final = 2_000_000  # of a delta applied in pieces
_GUARD_BYTES: Final = 127
_GUARD: Final = b"\x7f" + bytes(_GUARD_BYTES)


def _load_compiled() -> Callable[[bytes, bytes], list[bytes]] | None:
    """Return dulwich's compiled ``apply_delta``, or ``None`` without dulwich's extension modules."""
    try:
        compiled: Callable[[bytes, bytes], list[bytes]] = import_module("dulwich._pack").apply_delta
    except ImportError:
        return None
    return compiled


_apply_compiled = _load_compiled()


def delta_sizes(delta: bytes) -> tuple[int, int, int]:
    """Return the size of the base, the size of the result, and where the instructions start.

    :raises RemoteProtocolError: the delta is too short, or a size is cut off or longer than ten bytes.
    """
    if len(delta) < _MIN_BYTES:
        raise RemoteProtocolError(reason="header of a delta")
    try:
        base_bytes, at = read_size(delta, 0)
        result_bytes, at = read_size(delta, at)
    except IndexError:
        raise RemoteProtocolError(reason="header of a delta") from None
    return base_bytes, result_bytes, at


def apply_delta(base: bytes, delta: bytes, *, result_bytes: int) -> bytes:
    """Return the result of applying ``delta`` to ``base``.

    Uses dulwich's compiled code where it is installed, but not for large results, of which it makes two copies.

    :param result_bytes: size of the result in the delta's own header, already checked against its limit.
    :raises RemoteProtocolError: the delta does not fit its base or reaches outside of it.
    """
    if _apply_compiled is None or result_bytes > LARGE_BYTES:
        return apply_delta_in_pieces(base, [delta], result_bytes=result_bytes)
    try:
        pieces = _apply_compiled(base, _guarded(base, delta, result_bytes))
    except ApplyDeltaError:
        raise RemoteProtocolError(reason="instructions of a delta") from None
    result = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if len(result) != result_bytes + _GUARD_BYTES:
        raise RemoteProtocolError(reason="instructions of a delta")
    return result[:-_GUARD_BYTES]


def _guarded(base: bytes, delta: bytes, result_bytes: int) -> bytes:
    """Return the delta with an instruction appended that adds 127 bytes to its result.

    The compiled code ignores a last copy that does not fit the base, so the last instruction must not be the delta's.
    Where the delta's own last instruction is cut off, it swallows at most 127 bytes of the guard, and what is left is
    a reserved instruction, which the compiled code refuses.
    """
    at = 1 if delta[0] < 0x80 else 2 if delta[1] < 0x80 else 3
    if delta[at - 1] < 0x80 and (low := delta[at]) > 0x80 and (high := delta[at + 1]) & 0x7F != 0x7F:
        return b"%b%c%c%b%b" % (delta[:at], low - 1, high + 1, delta[at + 2 :], _GUARD)
    base_bytes, _, start = delta_sizes(delta)
    if base_bytes != len(base):
        raise RemoteProtocolError(reason="instructions of a delta")
    return b"".join((_five_bytes(base_bytes), _five_bytes(result_bytes + _GUARD_BYTES), delta[start:], _GUARD))


def _five_bytes(size: int) -> bytes:
    """Return a size below 2**35 as the header of a delta encodes it, padded to five bytes."""
    return bytes((size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21 & 127 | 128, size >> 28))


def apply_delta_in_pieces(base: bytes, delta: Iterable[bytes], *, result_bytes: int) -> bytes:
    """Return the result of applying a delta to ``base``, with one piece of the delta in memory at a time.

    :param delta: its bytes; the first piece holds both sizes.
    :param result_bytes: size of the result in the delta's own header, already checked against its limit.
    :raises RemoteProtocolError: the delta does not fit its base or reaches outside of it.
    :raises ObjectTooLarge: it has more than two million instructions.
    """
    pieces = iter(delta)
    window = next(pieces, b"")
    base_bytes, declared_bytes, at = delta_sizes(window)
    if base_bytes != len(base) or declared_bytes != result_bytes:
        raise RemoteProtocolError(reason="instructions of a delta")
    patch = _Patch(base, result_bytes)
    for piece in pieces:
        at = patch.follow(window, at, len(window) - _MAX_INSTRUCTION_BYTES)
        window, at = window[at:] + piece, 0
    patch.follow(window, at, len(window))
    return patch.result()


class _Patch:
    """Carries out instructions on one base."""

    def __init__(self, base: bytes, result_bytes: int) -> None:
        self._source: Final = memoryview(base)
        self._rest = result_bytes
        self._instructions_left = _MAX_INSTRUCTIONS
        # Grows in place and gives its content away without a copy.
        self._result: Final = io.BytesIO()

    def follow(self, window: bytes, at: int, end: int) -> int:
        """Carry out the instructions of ``window`` from ``at`` to ``end``, and return where the next one starts.

        :raises RemoteProtocolError: an instruction is cut off, reserved, or exceeds the base or the result.
        """
        try:
            while at < end:
                self._instructions_left -= 1
                if self._instructions_left < 0:
                    raise ObjectTooLarge
                instruction = window[at]
                at += 1
                if instruction & 0x80:
                    at = self._copy(window, at, instruction)
                elif 0 < instruction <= len(window) - at:
                    self._append(window[at : at + instruction])
                    at += instruction
                else:
                    raise RemoteProtocolError(reason="instructions of a delta")
        except IndexError:
            raise RemoteProtocolError(reason="instructions of a delta") from None
        return at

    def result(self) -> bytes:
        """Return the whole result.

        :raises RemoteProtocolError: it is shorter than its declared size.
        """
        if self._rest:
            raise RemoteProtocolError(reason="instructions of a delta")
        return self._result.getvalue()

    def _copy(self, window: bytes, at: int, instruction: int) -> int:
        offset = size = 0
        for bit in range(4):
            if instruction & 1 << bit:
                offset |= window[at] << 8 * bit
                at += 1
        for bit in range(3):
            if instruction & 0x10 << bit:
                size |= window[at] << 8 * bit
                at += 1
        size = size or _COPY_BYTES
        if offset + size > len(self._source):
            raise RemoteProtocolError(reason="instructions of a delta")
        self._append(self._source[offset : offset + size])
        return at

    def _append(self, piece: bytes | memoryview) -> None:
        self._rest -= len(piece)
        if self._rest < 0:
            raise RemoteProtocolError(reason="instructions of a delta")
        self._result.write(piece)
