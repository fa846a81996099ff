"""A child process that runs one of the real ones, and tells what that imported after it was forked.

The first line of its standard input names the module; what follows is for that.
"""

from __future__ import annotations

import sys
from importlib import import_module

from coderepos.git.descriptors import write_all
from coderepos.git.wire import dump_line


def main(pack_fd: int) -> int:
    """Run the module's program, then tell."""
    program = import_module(sys.stdin.buffer.readline().decode().strip())
    before = set(sys.modules)
    status: int = program.main(pack_fd)
    write_all(1, dump_line({"imported": sorted(set(sys.modules) - before)}))
    return status
