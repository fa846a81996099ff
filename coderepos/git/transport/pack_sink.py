"""Takes the pack bytes of a fetch: passes them on to the build child, or, for a probe, counts them."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Final

from coderepos.exceptions import GitError, InternalError, PreambleTooLarge, RemoteProtocolError, RepositoryTooLarge
from coderepos.git.descriptors import write_all
from coderepos.git.limits import SEARCHED_PACK_BYTES, SIZE_FACTOR
from coderepos.git.process.emitter import Emit
from coderepos.git.transport.meter import Meter
from coderepos.git.wire import FetchRequest

PROGRESS_SECONDS: Final = 0.2
"""Shortest time between two progress events."""

COUNTING_SHARE: Final = 0.75
"""Share of its time that a probe may spend on counting a whole history."""

LINE_OVERHEAD_BYTES: Final = 64
"""Fixed overhead charged per line of a side band: short lines cost time."""


class StoppedEarly(Exception):
    """A probe has counted enough to know that the repository is too large; never leaves the fetch child."""


class CountedLongEnough(Exception):
    """A probe that counts a whole history has used up its time; never leaves the fetch child."""


class PackSink:
    """Takes the pack bytes as they arrive: counts them, and writes them to ``pack_fd`` unless it is a probe."""

    def __init__(self, request: FetchRequest, pack_fd: int, meter: Meter, emit: Emit) -> None:
        self.pack_bytes = 0
        self.size_factor = SIZE_FACTOR
        """Estimated bytes of the repository per pack byte that a probe counts; 1 where it counts the whole history."""
        self.keeps_small_pack = False
        """Whether a probe writes its pack to ``pack_fd`` in the end, if it is small."""
        self._small_pack = bytearray()
        self._count_until: Final = time.monotonic() + COUNTING_SHARE * request.limits.clone_seconds
        self._limits: Final = request.limits
        self._count_only: Final = request.count_only
        self._pack_fd: Final = pack_fd
        self._meter: Final = meter
        self._emit: Final = emit
        self._next_progress = 0.0
        self._bytes_before = 0
        self._lines = 0

    def write(self, parts: list[memoryview], lines: int) -> None:
        """Take the next bytes, which are valid only during the call.

        :param lines: number of side band lines that they came in, including empty ones and those of progress.
        :raises RepositoryTooLarge: the pack is larger than the limit.
        :raises RemoteTooSlow: it arrives too slowly.
        :raises StoppedEarly: a probe knows enough.
        :raises CountedLongEnough: a probe that counts the whole history has little time left.
        """
        limit_bytes = self._limits.wire_bytes
        if parts and not self.pack_bytes:
            self._bytes_before = self._meter.received_bytes
            self._meter.pack_has_begun = True
        size = sum(map(len, parts))
        self._meter.take_pack(size)
        self.pack_bytes += size
        self._lines += lines
        self._set_allowance()
        if self._count_only:
            self._keep(parts)
            if self.pack_bytes * self.size_factor > limit_bytes:
                raise StoppedEarly
            if self.size_factor == 1 and self.pack_bytes and time.monotonic() > self._count_until:
                raise CountedLongEnough
        elif self.pack_bytes > limit_bytes:
            raise RepositoryTooLarge(figure=self.pack_bytes, limit=limit_bytes)
        else:
            self._pass_on(parts, size)
        if parts and time.monotonic() >= self._next_progress:
            self._emit_progress()

    def expect_pack(self) -> None:
        """Note that the next answer has the pack, and reset the allowance for bytes before it."""
        self._meter.begin_request(awaits_pack=True)
        self.allow_preamble_again()

    def allow_preamble_again(self) -> None:
        """Reset the allowance for bytes before the pack."""
        self._bytes_before = self._meter.received_bytes
        self._set_allowance()

    def finish(self) -> None:
        """Report the final size, and pass a small pack on.

        :raises RemoteProtocolError: there was no pack.
        """
        if not self.pack_bytes:
            raise RemoteProtocolError(reason="no pack")
        self._emit_progress()
        if self._count_only and len(self._small_pack) == self.pack_bytes:
            self._pass_on_small_pack()

    def _keep(self, parts: list[memoryview]) -> None:
        if self.keeps_small_pack and self.pack_bytes <= SEARCHED_PACK_BYTES:
            for part in parts:
                self._small_pack += part
        else:
            self._small_pack.clear()

    def _pass_on_small_pack(self) -> None:
        """Write the whole pack to the pipe, which nobody reads before this process has ended."""
        os.set_blocking(self._pack_fd, False)
        # A pipe that the kernel keeps small takes only a part, and the search then finds nothing.
        with suppress(BlockingIOError, BrokenPipeError):
            write_all(self._pack_fd, memoryview(self._small_pack))

    def _set_allowance(self) -> None:
        """Set how many bytes the meter allows.

        Besides the pack a server may send as many bytes as before it, less the overhead of its side band lines.
        """
        allowed_bytes = self._limits.preamble_bytes + self._bytes_before - LINE_OVERHEAD_BYTES * self._lines
        if self.pack_bytes:
            self._meter.allow(allowed_bytes + self.pack_bytes + self.pack_bytes // 8, _too_much_beside_pack)
        else:
            self._meter.allow(allowed_bytes, self._preamble_too_large)

    def _preamble_too_large(self, received_bytes: int) -> GitError:
        figure = received_bytes + LINE_OVERHEAD_BYTES * self._lines
        return PreambleTooLarge(figure=figure, limit=self._limits.preamble_bytes)

    def _pass_on(self, parts: list[memoryview], size: int) -> None:
        try:
            if parts and (written := os.writev(self._pack_fd, parts)) < size:
                write_all(self._pack_fd, memoryview(b"".join(parts))[written:])
        except BrokenPipeError:
            # The build child is gone; its own error is the cause.
            raise InternalError(reason="nobody reads the pack") from None

    def _emit_progress(self) -> None:
        self._next_progress = time.monotonic() + PROGRESS_SECONDS
        self._emit({"event": "progress", "phase": "receiving", "received_bytes": self.pack_bytes})


def _too_much_beside_pack(received_bytes: int) -> GitError:
    return RemoteProtocolError(reason="too much besides the pack")
