"""Where the pack bytes of a fetch go: into the pipe to the build child, or into a count."""

from __future__ import annotations

import os
import time
from typing import Final

from coderepos.exceptions import InternalError, RemoteProtocolError, RepositoryTooLarge
from coderepos.git.child import Emit
from coderepos.git.connection import PREAMBLE, Meter
from coderepos.git.limits import SIZE_FACTOR
from coderepos.git.messages import FetchRequest

PROGRESS_SECONDS: Final = 0.2
"""Least time between two progress events."""

PIECE_BYTES: Final = 64
"""What a pkt-line counts besides its bytes."""


class StoppedEarly(Exception):
    """A probe counted enough to know that the repository is too large; never leaves the fetch child."""


class PackWriter:
    """Takes the pack bytes as they arrive: counts them, and passes them on unless it is a probe."""

    def __init__(self, request: FetchRequest, pack_fd: int, meter: Meter, emit: Emit) -> None:
        self.pack_bytes = 0
        self._limits: Final = request.limits
        self._count_only: Final = request.count_only
        self._pack_fd: Final = pack_fd
        self._meter: Final = meter
        self._emit: Final = emit
        self._next_progress = 0.0
        self._bytes_before = 0
        self._pieces = 0

    def write(self, data: bytes) -> int:
        """Take the next bytes; none at all keep the connection alive.

        :raises RepositoryTooLarge: the pack is larger than the limit.
        :raises StoppedEarly: a probe knows enough.
        """
        limit_bytes = self._limits.wire_bytes
        if data and not self.pack_bytes:
            self._bytes_before = self._meter.received_bytes
        self.pack_bytes += len(data)
        self.count_piece()
        if self._count_only:
            if self.pack_bytes * SIZE_FACTOR > limit_bytes:
                raise StoppedEarly
        elif self.pack_bytes > limit_bytes:
            raise RepositoryTooLarge(figure=self.pack_bytes, limit=limit_bytes)
        else:
            self._pass_on(data)
        if time.monotonic() >= self._next_progress:
            self._tell_progress()
        return len(data)

    def count_piece(self, text: bytes = b"") -> None:
        """Take note of a pkt-line, of pack bytes or of progress, whose text does not matter.

        Besides the pack a server may send the preamble's bytes once more, less the more pieces it cuts its answer
        into: small ones cost time, not bytes.
        """
        self._pieces += 1
        allowed_bytes = self._limits.preamble_bytes + self._bytes_before - PIECE_BYTES * self._pieces
        if self.pack_bytes:
            allowed_bytes += self.pack_bytes + self.pack_bytes // 8
        self._meter.allow(allowed_bytes, reason="too much besides the pack" if self.pack_bytes else PREAMBLE)

    def finish(self) -> None:
        """Tell the last figure.

        :raises RemoteProtocolError: there was no pack.
        """
        if not self.pack_bytes:
            raise RemoteProtocolError(reason="no pack")
        self._tell_progress()

    def _pass_on(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._pack_fd, rest) :]
        except BrokenPipeError:
            # The build child is gone; what it said about that is the true cause.
            raise InternalError(reason="nobody reads the pack") from None

    def _tell_progress(self) -> None:
        self._next_progress = time.monotonic() + PROGRESS_SECONDS
        self._emit({"event": "progress", "phase": "receiving", "received_bytes": self.pack_bytes})
