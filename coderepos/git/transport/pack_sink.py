"""Where the pack bytes of a fetch go: into the pipe to the build child, or into a count."""

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
"""Least time between two progress events."""

COUNTING_SHARE: Final = 0.75
"""Part of its time that a probe may count a whole history for."""

LINE_OVERHEAD_BYTES: Final = 64
"""Fixed overhead charged per line of a side band: short lines cost time."""


class StoppedEarly(Exception):
    """A probe counted enough to know that the repository is too large; never leaves the fetch child."""


class CountedLongEnough(Exception):
    """A probe that counts a whole history has to come to an end; never leaves the fetch child."""


class PackWriter:
    """Takes the pack bytes as they arrive: counts them, and passes them on unless it is a probe."""

    def __init__(self, request: FetchRequest, pack_fd: int, meter: Meter, emit: Emit) -> None:
        self.pack_bytes = 0
        self.size_factor = SIZE_FACTOR
        """Bytes of the repository per pack byte that a probe counts; 1 where it counts all of them."""
        self.keeps_small_pack = False
        """Whether the bytes that a probe counts are passed on in the end, if they are few."""
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
        """Take the next bytes, before those that they were received into are used again.

        :param lines: lines of side bands that these came in, those of progress and empty ones included.
        :raises RepositoryTooLarge: the pack is larger than the limit.
        :raises StoppedEarly: a probe knows enough.
        :raises CountedLongEnough: a probe that counts everything has little time left.
        """
        limit_bytes = self._limits.wire_bytes
        if parts and not self.pack_bytes:
            self._bytes_before = self._meter.received_bytes
            self._meter.has_begun = True
        size = sum(map(len, parts))
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
            self._tell_progress()

    def allow_preamble_again(self) -> None:
        """Let as much arrive before the pack as at the beginning, whatever has arrived."""
        self._bytes_before = self._meter.received_bytes
        self._set_allowance()

    def finish(self) -> None:
        """Tell the last figure.

        :raises RemoteProtocolError: there was no pack.
        """
        if not self.pack_bytes:
            raise RemoteProtocolError(reason="no pack")
        self._tell_progress()
        if self._count_only and len(self._small_pack) == self.pack_bytes:
            self._pass_on_small_pack()

    def _keep(self, parts: list[memoryview]) -> None:
        if self.keeps_small_pack and self.pack_bytes <= SEARCHED_PACK_BYTES:
            for part in parts:
                self._small_pack += part
        else:
            self._small_pack.clear()

    def _pass_on_small_pack(self) -> None:
        """Leave the whole pack in the pipe, which nobody reads before this process has ended."""
        os.set_blocking(self._pack_fd, False)
        # A pipe that the kernel keeps small takes only a part, and the search then finds nothing.
        with suppress(BlockingIOError, BrokenPipeError):
            write_all(self._pack_fd, memoryview(self._small_pack))

    def _set_allowance(self) -> None:
        """Tell the meter how much may arrive.

        Besides the pack a server may send the preamble's bytes once more, less the more lines it cuts its answer into.
        """
        allowed_bytes = self._limits.preamble_bytes + self._bytes_before - LINE_OVERHEAD_BYTES * self._lines
        if self.pack_bytes:
            self._meter.allow(allowed_bytes + self.pack_bytes + self.pack_bytes // 8, _too_much_besides)
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
            # The build child is gone; what it said about that is the true cause.
            raise InternalError(reason="nobody reads the pack") from None

    def _tell_progress(self) -> None:
        self._next_progress = time.monotonic() + PROGRESS_SECONDS
        self._emit({"event": "progress", "phase": "receiving", "received_bytes": self.pack_bytes})


def _too_much_besides(received_bytes: int) -> GitError:
    return RemoteProtocolError(reason="too much besides the pack")
