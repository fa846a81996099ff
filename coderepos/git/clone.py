"""One clone: ``fetch | build`` in two processes, watched by this one.

Both start before the first byte is asked for. Pack bytes go from fetch to build by a pipe that this process does not
read; requests and events go through it as lines.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from coderepos.disk_errors import disk_error
from coderepos.exceptions import CloneTimeout, CodeReposError, InternalError, RemoteProtocolError
from coderepos.git.credentials import Credentials
from coderepos.git.disk_sync import DiskSync
from coderepos.git.inspection import inspect
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.process import events
from coderepos.git.process.child import Child, pack_pipe, starting
from coderepos.git.process.watchdog import TICK_SECONDS, Watchdog
from coderepos.git.results import CloneReport, Progress, token_expiry
from coderepos.git.text import display_ref
from coderepos.git.wire import (
    BuildReport,
    BuildRequest,
    FetchOutcome,
    FetchRequest,
    dump_line,
    message_fields,
    request_line,
)
from coderepos.hidden import HiddenText

logger = logging.getLogger(__name__)

INSPECTION_SECONDS: Final = 60.0
"""How long the inspection of what was built may take, which comes after the deadline of the children."""

_GRACE_SECONDS: Final = 2.0
"""How long the other child may still name the true cause once one has failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildModules:
    """Modules that the children run, each with a ``main(pack_fd)``."""

    fetch: str = "coderepos.git.fetch"
    build: str = "coderepos.git.build"
    search: str = "coderepos.git.commit_search"


CHILD_MODULES: Final = ChildModules()


@dataclass(frozen=True, kw_only=True, slots=True)
class CloneRequest:
    """What to clone, for whom, and what it may cost."""

    url: str
    credentials: Credentials | None
    ref: str
    """Branch, tag, full ref name or full commit id; empty for the remote's default branch."""

    depth: int | None
    """Commits of history; ``None`` for all."""

    policy: NetworkPolicy
    limits: Limits
    min_level: int
    """Isolation level below which nothing is run."""

    group_readable: bool
    """Whether the sandbox's group may read what is written."""


def clone(
    request: CloneRequest,
    *,
    incoming: Path,
    on_progress: Callable[[Progress], None],
    modules: ChildModules = CHILD_MODULES,
) -> CloneReport:
    """Fetch and build one repository in ``incoming``, and leave no process behind, however this ends.

    :param incoming: absolute path of an empty, writable directory; removing it after an error is the caller's part.
    :param on_progress: called at least once a second. What it raises ends the clone and goes through.
    :raises GitError: a subclass that names what went wrong.
    :raises InternalError: a child died, misbehaved or left what it should not; the log says how.
    """
    ends_at = time.monotonic() + request.limits.clone_seconds
    with ExitStack() as running:
        fetch, build = _start(modules, running)
        fetch.send(request_line(fetch_request(request, depth=request.depth)), last=True)
        build.send(
            request_line(
                BuildRequest(
                    incoming=str(incoming),
                    limits=request.limits,
                    min_level=request.min_level,
                    group_readable=request.group_readable,
                )
            )
        )
        report = _CloneSession(fetch, build, request, on_progress).report()
    return inspected(report, build, incoming, request.limits, ends_at=ends_at, on_progress=on_progress)


def inspected(
    report: CloneReport,
    build: Child,
    incoming: Path,
    limits: Limits,
    *,
    ends_at: float,
    on_progress: Callable[[Progress], None],
) -> CloneReport:
    """Return a report with the figures of what is really there and on the disk, once nothing can change it any more.

    :param ends_at: when the clone has to end, by the monotonic clock; a minute is left in any case.
    """
    if not build.is_gone:
        raise build.misbehaved("left a process behind that does not end")
    objects = report.build.objects
    progress = Progress(
        phase="publishing", received_bytes=report.received_bytes, objects=objects, total_objects=objects
    )
    started = told = time.monotonic()
    inspection_ends_at = started + INSPECTION_SECONDS

    def report_progress(ends_at: float = inspection_ends_at) -> None:
        nonlocal told
        now = time.monotonic()
        if now > ends_at:
            raise CloneTimeout
        if now - told > TICK_SECONDS:
            told = now
            on_progress(progress)

    try:
        sync = DiskSync(incoming)
        found = inspect(incoming, limits, on_progress=report_progress)
        inspected_at = time.monotonic()
        sync.wait(partial(report_progress, max(ends_at, inspection_ends_at)))
    except OSError as error:
        raise disk_error(error) from error
    seconds = {**report.build.seconds, "sync": round(time.monotonic() - inspected_at, 4)}
    return replace(report, build=replace(report.build, **asdict(found), seconds=seconds))


def fetch_request(request: CloneRequest, *, depth: int | None, count_only: bool = False) -> FetchRequest:
    """Return the message for the fetch child; the token is in it, as text that hides itself.

    :param count_only: it is a probe. Of what is wanted whole it asks the platform for the size, and counts all where
        the server knows no depth.
    """
    credentials = request.credentials
    return FetchRequest(
        url=request.url,
        username=HiddenText(credentials.username.reveal()) if credentials else None,
        password=HiddenText(credentials.password.reveal()) if credentials else None,
        ref=request.ref,
        depth=depth,
        policy=request.policy,
        limits=request.limits,
        min_level=request.min_level,
        count_only=count_only,
        wants_platform_size=count_only and request.depth is None,
        full_history_fallback=count_only and request.depth is None,
    )


def exit_error(child: Child) -> CodeReposError:
    """Return the error for a child that ended without a last word, and log how it ended."""
    status = child.exit_status(within_seconds=1)
    logger.error("The %s child ended without a result: %s", child.name, child.describe_exit())
    # SIGKILL stays unexplained: the kernel was short of memory, or somebody killed it.
    return CloneTimeout() if status == -signal.SIGXCPU else InternalError()


def _start(modules: ChildModules, running: ExitStack) -> tuple[Child, Child]:
    with starting():
        read_end, write_end = pack_pipe()
        try:
            fetch = running.enter_context(Child("fetch", modules.fetch, write_end))
            build = running.enter_context(Child("build", modules.build, read_end))
        finally:
            # Copies held here would hide from either child that the other one ended.
            os.close(read_end)
            os.close(write_end)
    return fetch, build


class _CloneSession:
    """What both children have said so far, and what follows from it."""

    def __init__(
        self, fetch: Child, build: Child, request: CloneRequest, on_progress: Callable[[Progress], None]
    ) -> None:
        self._fetch: Final = fetch
        self._build: Final = build
        self._request: Final = request
        self._watchdog: Final = Watchdog(
            (fetch, build), seconds=request.limits.clone_seconds, overrun=CloneTimeout, on_progress=on_progress
        )
        self._isolation: dict[str, Any] = {}
        self._outcome: FetchOutcome | None = None
        self._token_expires_at: datetime | None = None
        self._built: BuildReport | None = None
        self._errors: dict[Child, CodeReposError] = {}
        self._lost: set[Child] = set()

    def report(self) -> CloneReport:
        """Carry events until both children succeeded, or the cause of a failure is clear."""
        grace_ends: float | None = None
        while self._outcome is None or self._built is None:
            for child, event in self._watchdog.events():
                self._on_event(child, event)
            self._detect_exits()
            if self._errors:
                grace_ends = grace_ends or time.monotonic() + _GRACE_SECONDS
                if cause := self._cause(is_final=time.monotonic() >= grace_ends):
                    raise cause
        return CloneReport(
            build=self._built,
            ref_name=display_ref(self._outcome.ref_name),
            head_branch=display_ref(self._outcome.head_branch),
            received_bytes=self._outcome.pack_bytes,
            isolation_level=min(self._isolation[child.name]["level"] for child in (self._fetch, self._build)),
            isolation=self._isolation,
            token_expires_at=self._token_expires_at,
        )

    def _on_event(self, child: Child, event: Mapping[str, Any]) -> None:
        try:
            self._dispatch(child, event)
        except ValueError as error:
            raise child.misbehaved(f"sent an invalid event: {error}") from None

    def _dispatch(self, child: Child, event: Mapping[str, Any]) -> None:
        kind = event.get("event")
        if kind == "started" and child.name not in self._isolation:
            self._isolation[child.name] = events.isolation(event)
        elif kind == "error" and child not in self._errors:
            self._errors[child] = events.error(
                event, child=child.name, url=self._request.url, policy=self._request.policy
            )
        elif child.name not in self._isolation:
            raise ValueError("order")
        elif kind == "progress":
            self._watchdog.progress = events.progress(event, self._watchdog.progress)
        elif kind == "outcome" and child is self._fetch and self._outcome is None:
            self._outcome = FetchOutcome.from_json(event, limits=self._request.limits)
            self._token_expires_at = token_expiry(event)
            self._build.send(dump_line({"event": "outcome", **message_fields(self._outcome)}), last=True)
        elif kind == "report" and child is self._build and self._outcome is not None:
            self._built = BuildReport.from_json(event)
        else:
            raise ValueError("kind")

    def _detect_exits(self) -> None:
        results = {self._fetch: self._outcome, self._build: self._built}
        for child, result in results.items():
            if child.finished and result is None and child not in self._errors:
                self._errors[child] = exit_error(child)
                self._lost.add(child)

    def _cause(self, *, is_final: bool) -> CodeReposError | None:
        """Return the error that explains the others, or ``None`` while the other child may still name it.

        A failure of one child ends the pack early for the other, whose own error then says nothing.
        """
        fetch, build = self._errors.get(self._fetch), self._errors.get(self._build)
        if build and not isinstance(build, RemoteProtocolError | InternalError):
            return build
        if fetch and not isinstance(fetch, InternalError):
            return fetch
        if self._fetch in self._lost and self._build not in self._lost:
            return fetch
        fetch_is_done = fetch or self._outcome or self._fetch.finished
        build_is_done = build or self._build.finished
        if is_final or (fetch_is_done and build_is_done):
            return build or fetch
        return None
