"""Estimate the size of a repository before anything of it is accepted.

The fetch child counts the pack bytes of the newest commit alone, or of the whole history where the server cannot cut
it off, and writes nothing. Where no branch is wanted and the pack is small, a child without token and network looks
whether there is a commit in it. This is a courtesy to the user, not a defence: a server may answer the clone
differently, and the clone enforces every limit again.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from coderepos.exceptions import RefNotFound, RemoteTimeout, RepositoryTooLarge
from coderepos.git.clone import CHILD_MODULES, ChildModules, CloneRequest, exit_error, fetch_request
from coderepos.git.limits import SEARCHED_PACK_BYTES, SIZE_FACTOR
from coderepos.git.pack.published_refs import HEADS
from coderepos.git.process import events
from coderepos.git.process.child import Child, pack_pipe, starting
from coderepos.git.process.watchdog import Watchdog
from coderepos.git.results import ProbeReport, Progress, token_expiry
from coderepos.git.text import display_ref
from coderepos.git.wire import FetchOutcome, SearchRequest, request_line

_LARGEST_BYTES: Final = 2**53


def probe(request: CloneRequest, *, seconds: float, modules: ChildModules = CHILD_MODULES) -> ProbeReport:
    """Ask the remote for the newest commit alone and estimate what a clone would take.

    Credentials and ref are tried by it as well.

    :param seconds: wall clock for all of it, the start of the process included.
    :raises RepositoryTooLarge: the estimate passes ``limits.wire_bytes``.
    :raises RemoteTimeout: ``seconds`` passed.
    :raises GitError: a subclass that names what else went wrong.
    :raises InternalError: the child died or misbehaved; the log says how.
    """
    deadline = time.monotonic() + seconds
    limits = replace(request.limits, clone_seconds=seconds)
    message = fetch_request(replace(request, limits=limits), depth=1, count_only=True)
    with ExitStack() as running:
        with starting():
            read_end, write_end = pack_pipe()
            running.callback(os.close, read_end)
            try:
                child = running.enter_context(Child("fetch", modules.fetch, write_end))
            finally:
                # A copy held here would hide the end of the pack.
                os.close(write_end)
        child.send(request_line(message), last=True)
        try:
            event = _outcome(child, seconds, request)
            report = _estimate_within_limit(event, request)
            if _may_lack_commit(FetchOutcome.from_json(event, limits=request.limits)):
                _search(read_end, SearchRequest(limits=limits, min_level=request.min_level), deadline, modules)
        except ValueError as error:
            raise child.misbehaved(f"sent an invalid event: {error}") from None
        return report


def _outcome(child: Child, seconds: float, request: CloneRequest) -> Mapping[str, Any]:
    """Return the child's last event, unchecked.

    :raises CodeReposError: it is an error, or does not come in time.
    :raises ValueError: it is an error that is none.
    """
    watchdog = Watchdog((child,), seconds=seconds, overrun=RemoteTimeout, on_progress=_nobody_waits)
    while True:
        for _, event in watchdog.events():
            if event.get("event") == "outcome":
                return event
            if event.get("event") == "error":
                raise events.error(event, child=child.name, url=request.url, policy=request.policy)
        if child.finished:
            raise exit_error(child)


def _may_lack_commit(outcome: FetchOutcome) -> bool:
    """Return whether the ref may name a blob or a tree, and the whole pack is small enough to tell."""
    is_branch = outcome.ref_name.startswith(HEADS)
    return not is_branch and not outcome.shallow and outcome.pack_bytes <= SEARCHED_PACK_BYTES


def _search(pack_fd: int, request: SearchRequest, deadline: float, modules: ChildModules) -> None:
    """Let a child look for a commit in what the fetch child left in the pipe.

    :raises RefNotFound: there is none.
    :raises RemoteTimeout: the time is over.
    """
    with ExitStack() as running:
        with starting():
            child = running.enter_context(Child("search", modules.search, pack_fd))
        child.send(request_line(request), last=True)
        seconds = deadline - time.monotonic()
        watchdog = Watchdog((child,), seconds=seconds, overrun=RemoteTimeout, on_progress=_nobody_waits)
        while not child.finished:
            for _, event in watchdog.events():
                if event.get("event") == "searched":
                    if event.get("no_commit") is True:
                        raise RefNotFound(reason="no commit")
                    return
        # Hostile bytes may end it. The clone, which is bounded better, says what is wrong with them.
        child.misbehaved("ended without an answer")


def _nobody_waits(progress: Progress) -> None:
    """Report nothing: a probe is too short for that."""


def _estimate_within_limit(event: Mapping[str, Any], request: CloneRequest) -> ProbeReport:
    """Return the estimate that an ``outcome`` event in counting mode leads to.

    :raises RepositoryTooLarge: the estimate passes the limit.
    :raises ValueError: a field is missing, of another type, or out of its range.
    """
    outcome = FetchOutcome.from_json(event, limits=request.limits)
    token_expires_at = token_expiry(event)
    stopped_early, is_whole = event.get("stopped_early"), event.get("is_whole", False)
    if type(stopped_early) is not bool or type(is_whole) is not bool:
        raise ValueError("stopped_early")
    platform_bytes = event.get("platform_size_bytes")
    if platform_bytes is not None and (type(platform_bytes) is not int or not 0 <= platform_bytes <= _LARGEST_BYTES):
        raise ValueError("platform_size_bytes")
    counted_bytes = outcome.pack_bytes if is_whole else math.ceil(outcome.pack_bytes * SIZE_FACTOR)
    # Whoever has counted everything needs no figure of the platform, which is one of all branches.
    told_bytes = platform_bytes if request.depth is None and platform_bytes and not is_whole else 0
    estimated_bytes = max(counted_bytes, told_bytes)
    limit_bytes = request.limits.wire_bytes
    if stopped_early or estimated_bytes > limit_bytes:
        at_least = stopped_early and counted_bytes >= told_bytes
        raise RepositoryTooLarge.of(max(estimated_bytes, limit_bytes + 1), limit_bytes, at_least=at_least)
    return ProbeReport(
        pack_bytes=outcome.pack_bytes,
        estimated_bytes=estimated_bytes,
        size_source="full_fetch" if is_whole else "platform" if told_bytes > counted_bytes else "probe",
        stopped_early=stopped_early,
        ref_name=display_ref(outcome.ref_name),
        head_branch=display_ref(outcome.head_branch),
        wanted_id=outcome.wanted_id,
        token_expires_at=token_expires_at,
    )
