"""How a child process speaks to the pipeline: one event per line on its standard output."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from coderepos.exceptions import CodeReposError
from coderepos.git.descriptors import write_all
from coderepos.git.wire import dump_line

TRACE_FRAMES: Final = 40
"""Places in the code that an error event names, the innermost ones."""

Emit = Callable[[Mapping[str, object]], None]


def emit_to(descriptor: int) -> Emit:
    """Return a function that writes events to a descriptor, one line each."""

    def emit(event: Mapping[str, object]) -> None:
        write_all(descriptor, dump_line(event))

    return emit


def error_event(error: CodeReposError, *, cause: BaseException | None = None) -> dict[str, Any]:
    """Return the event of an error: its code and fields, and the places in the code that it came through."""
    origin = cause or error
    while origin.__cause__ or origin.__context__:
        origin = origin.__cause__ or origin.__context__ or origin
    chain = [error] if origin is error else [error, origin]
    # Unlike what is extracted, these need no source file.
    steps = [step for one in chain for step in traceback.walk_tb(one.__traceback__)]
    places = [f"{os.path.basename(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}" for frame, line in steps]
    return {"event": "error", "code": error.code, "fields": error.fields, "trace": places[-TRACE_FRAMES:]}
