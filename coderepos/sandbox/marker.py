"""The file that says which installation a sandbox root belongs to."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Final

from coderepos.exceptions import SandboxRefused

MARKER: Final = ".coderepos-root"
"""Name of the marker in the root."""

MARKER_DRAFT: Final = f"{MARKER}-"
"""Prefix of markers that are not complete yet."""

_MARKER_BYTES: Final = 256


def read_marker(base: int) -> str | None:
    """Return the id in the marker, or ``None`` without a marker.

    :raises SandboxRefused: it belongs to another user.
    """
    try:
        marker = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=base)
    except FileNotFoundError:
        return None
    with open(marker, "rb") as file:
        if os.fstat(marker).st_uid != os.geteuid():
            raise SandboxRefused("The marker of the sandbox root belongs to another user than the worker's.")
        return file.read(_MARKER_BYTES).decode("ascii", "replace").strip()


def write_marker(base: int, root_id: str) -> None:
    """Write the marker atomically; an existing one stays."""
    draft = f"{MARKER_DRAFT}{os.getpid()}-{time.monotonic_ns()}"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=base), "wb") as file:
        file.write(root_id.encode("ascii") + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        with suppress(FileExistsError):
            os.link(draft, MARKER, src_dir_fd=base, dst_dir_fd=base)
    finally:
        os.unlink(draft, dir_fd=base)
    os.fsync(base)
