"""How a child process speaks to the pipeline: one event per line on its standard output."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
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
    places = [place for one in chain for place in _places(one)]
    return {"event": "error", "code": error.code, "fields": error.fields, "trace": places[-TRACE_FRAMES:]}


def _places(error: BaseException) -> Iterator[str]:
    """Yield the places that an error came through, as the module ``traceback`` would, which takes 2 ms to import."""
    step = error.__traceback__
    while step:
        code = step.tb_frame.f_code
        yield f"{os.path.basename(code.co_filename)}:{step.tb_lineno} {code.co_name}"
        step = step.tb_next
