"""Where the file system of a path is mounted."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


def mount_point_of(path: Path) -> str:
    """Return the innermost mount point at or above ``path``, which need not exist; ``/`` if the kernel tells none.

    Unlike device numbers, this tells bind mounts apart.
    """
    real = os.path.realpath(path)
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except OSError:
        return "/"
    # proc(5): the fifth field, with blanks and backslashes in octal
    points = {os.fsdecode(_ESCAPED.sub(lambda code: bytes([int(code[1], 8)]), line.split(b" ")[4])) for line in lines}
    return max((point for point in points if os.path.commonpath([point, real]) == point), key=len, default="/")
