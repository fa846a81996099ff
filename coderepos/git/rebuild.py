"""Builds a version from a pack that is at hand, without any Git host: the same confined build child as of a clone.

The child is told what a fetch child would have found out, and reads the pack from a file: as if it came from the wire,
or by its index, where an earlier build has written both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coderepos.exceptions import CloneTimeout
from coderepos.git.clone import CHILD_MODULES, ChildModules, exit_error, inspected
from coderepos.git.limits import Limits
from coderepos.git.process import events
from coderepos.git.process.child import Child, starting
from coderepos.git.process.watchdog import Watchdog
from coderepos.git.results import CloneReport, Progress
from coderepos.git.text import display_ref
from coderepos.git.wire import BuildReport, BuildRequest, FetchOutcome, dump_line, message_fields, request_line


@dataclass(frozen=True, kw_only=True, slots=True)
class RebuildRequest:
    """What to build, and what it may cost."""

    pack_fd: int
    """Descriptor that gives the bytes of the pack, then those of the index, if any; it stays the caller's."""

    outcome: FetchOutcome
    limits: Limits
    min_level: int
    """Isolation level below which nothing is run."""

    group_readable: bool
    """Whether the sandbox's group may read what is written."""

    index_bytes: int = 0
    """Size of the index, by which objects are looked up; 0 to read the whole pack as from the wire."""


def rebuild(
    request: RebuildRequest,
    *,
    incoming: Path,
    on_progress: Callable[[Progress], None],
    modules: ChildModules = CHILD_MODULES,
) -> CloneReport:
    """Build one version in ``incoming``, and leave no process behind, however this ends.

    :param incoming: absolute path of an empty, writable directory; removing it after an error is the caller's part.
    :param on_progress: called at least once a second. What it raises ends the build and goes through.
    :raises GitError: a subclass that names what is wrong with the pack.
    :raises InternalError: the child died, misbehaved or left what it should not; the log says how.
    """
    ends_at = time.monotonic() + request.limits.clone_seconds
    with starting():
        build = Child("build", modules.build, request.pack_fd)
    with build:
        build.send(
            request_line(
                BuildRequest(
                    incoming=str(incoming),
                    limits=request.limits,
                    min_level=request.min_level,
                    group_readable=request.group_readable,
                    index_bytes=request.index_bytes,
                )
            )
            + dump_line({"event": "outcome", **message_fields(request.outcome)}),
            last=True,
        )
        report = _report(build, request, on_progress)
    return inspected(report, build, incoming, request.limits, ends_at=ends_at, on_progress=on_progress)


def _report(build: Child, request: RebuildRequest, on_progress: Callable[[Progress], None]) -> CloneReport:
    """Carry events until the child succeeded or failed."""
    watchdog = Watchdog((build,), seconds=request.limits.clone_seconds, overrun=CloneTimeout, on_progress=on_progress)
    isolation: dict[str, Any] = {}
    while True:
        for _, event in watchdog.events():
            try:
                kind = event.get("event")
                if kind == "started" and not isolation:
                    isolation = events.isolation(event)
                elif kind == "error":
                    raise events.error(event, child=build.name)
                elif not isolation:
                    raise ValueError("order")
                elif kind == "progress":
                    watchdog.progress = events.progress(event, watchdog.progress)
                elif kind == "report":
                    return _clone_report(BuildReport.from_json(event), request.outcome, isolation)
                else:
                    raise ValueError("kind")
            except ValueError as error:
                raise build.misbehaved(f"sent an invalid event: {error}") from None
        if build.finished:
            raise exit_error(build)


def _clone_report(built: BuildReport, outcome: FetchOutcome, isolation: dict[str, Any]) -> CloneReport:
    return CloneReport(
        build=built,
        ref_name=display_ref(outcome.ref_name),
        head_branch=display_ref(outcome.head_branch),
        received_bytes=outcome.pack_bytes,
        isolation_level=isolation["level"],
        isolation={"build": isolation},
    )
