"""Runs the build child as the pipeline does, or its parts in this process, and the real git as the reference."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from coderepos.git.build import make, make_by_index
from coderepos.git.limits import MB, Limits
from coderepos.git.pack import index as pack_index
from coderepos.git.pack.pack_file import Pack
from coderepos.git.pack.resolver import Resolver
from coderepos.git.pack.scanner import PackScanner
from coderepos.git.process.child import Child, starting
from coderepos.git.published import opened_pack
from coderepos.git.published import outcome_of as published_outcome
from coderepos.git.wire import BuildReport, BuildRequest, FetchOutcome, dump_line, request_line
from tests.support import packs
from tests.support.packs import Object

LIMITS = Limits()


@dataclass(frozen=True)
class Built:
    """How a build child ended."""

    events: list[dict[str, Any]]
    status: int
    seconds: float
    """Processor time, which a busy machine does not change much."""

    peak_mb: float
    """Largest resident set since it was forked."""

    @property
    def last(self) -> dict[str, Any]:
        """Its last word."""
        return self.events[-1]

    @property
    def failure(self) -> tuple[str, Any]:
        """Code and reason of its error."""
        return self.last.get("code", ""), self.last.get("fields", {}).get("reason")


@contextmanager
def scanned(content: bytes | Path, limits: Limits = LIMITS) -> Iterator[Pack]:
    """Scan and resolve a pack in this process."""
    source = os.open(content, os.O_RDONLY) if isinstance(content, Path) else packs.descriptor(content)
    file = packs.descriptor()
    try:
        pack = Pack(file)
        with Resolver(pack, limits) as resolver:
            PackScanner(source, pack, limits, lambda _done, _total: resolver.advance()).scan()
            resolver.finish()
        yield pack
    finally:
        os.close(source)
        os.close(file)


def index_of(content: bytes | Path, limits: Limits = LIMITS) -> bytes:
    """Return the index of a pack."""
    with scanned(content, limits) as pack:
        return pack_index.index_of(pack)


def outcome_of(content: bytes, wanted: Object | str, **fields: Any) -> FetchOutcome:
    """Return what a fetch of this pack would say."""
    wanted_id = wanted if isinstance(wanted, str) else wanted.id
    given: dict[str, Any] = {"ref_name": "refs/heads/main", "head_branch": "refs/heads/main", **fields}
    return FetchOutcome(**{"wanted_id": wanted_id, "pack_bytes": len(content), **given})


def built_here(
    incoming: Path, content: bytes, outcome: FetchOutcome, limits: Limits = LIMITS, *, group_readable: bool = False
) -> BuildReport:
    """Build a pack in this process."""
    incoming.mkdir(exist_ok=True)
    source = packs.descriptor(content)
    request = BuildRequest(incoming=str(incoming), limits=limits, min_level=1, group_readable=group_readable)
    folder = os.open(incoming, os.O_RDONLY)
    try:
        return make(request, folder, source, lambda: outcome, lambda _event: None)
    finally:
        os.close(source)
        os.close(folder)


def rebuilt_here(
    version: Path,
    incoming: Path,
    limits: Limits = LIMITS,
    *,
    index: bytes | None = None,
    group_readable: bool = False,
) -> BuildReport:
    """Build what an earlier build wrote once more, by its index or another one, in this process."""
    pack, own_index, outcome = published(version)
    index = own_index if index is None else index
    incoming.mkdir()
    source = packs.descriptor(pack + index)
    request = BuildRequest(
        incoming=str(incoming), limits=limits, min_level=1, group_readable=group_readable, index_bytes=len(index)
    )
    folder = os.open(incoming, os.O_RDONLY)
    try:
        return make_by_index(request, folder, source, lambda: outcome, lambda _event: None)
    finally:
        os.close(source)
        os.close(folder)


def published(version: Path) -> tuple[bytes, bytes, FetchOutcome]:
    """Return pack and index of a version, and the outcome that leads to it."""
    folder = os.open(version, os.O_RDONLY)
    try:
        with opened_pack(folder) as (pack_file, index_file):
            pack, index = pack_file.read(), index_file.read()
        limits = replace(LIMITS, wire_bytes=len(pack))
        return pack, index, published_outcome(folder, pack_bytes=len(pack), limits=limits)
    finally:
        os.close(folder)


def built_of(incoming: Path, objects: Sequence[Object], wanted: Object, limits: Limits = LIMITS) -> BuildReport:
    """Build a pack of these objects in this process."""
    content = packs.pack(objects)
    return built_here(incoming, content, outcome_of(content, wanted), limits)


def tree_of(incoming: Path, *lines: packs.Line, objects: Sequence[Object], is_sorted: bool = True) -> BuildReport:
    """Build a commit whose root tree has these entries."""
    root = packs.tree(*lines, is_sorted=is_sorted)
    head = packs.commit(root)
    return built_of(incoming, [*objects, root, head], head)


def child(
    incoming: Path,
    content: bytes | Path,
    outcome: FetchOutcome | None = None,
    limits: Limits = LIMITS,
    *,
    lines: Sequence[bytes] | None = None,
    group_readable: bool = False,
) -> Built:
    """Run the real child with a pack; without an outcome its standard input ends after the request."""
    incoming.mkdir(mode=0o700, exist_ok=True)
    source = os.open(content, os.O_RDONLY) if isinstance(content, Path) else packs.descriptor(content)
    request = BuildRequest(incoming=str(incoming), limits=limits, min_level=1, group_readable=group_readable)
    if lines is None:
        lines = [request_line(request)]
        if outcome:
            lines = [*lines, dump_line({"event": "outcome", **asdict(outcome)})]
    try:
        with starting():
            running = Child("build", "coderepos.git.build", source)
    finally:
        os.close(source)
    events: list[dict[str, Any]] = []
    with running:
        running.send(b"".join(lines), last=True)
        while not running.finished:
            running.flush()
            select.select([running.events_fd], [running.input_fd] if running.wants_to_send else [], [], 0.05)
            events += running.read_events()
        status = running.exit_status(within_seconds=10)
    assert status is not None
    return Built(
        events=events,
        status=status,
        seconds=running.usage["cpu_seconds"],
        peak_mb=running.usage["peak_bytes"] / MB,
    )
