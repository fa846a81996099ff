"""The child process that turns a pack into Git data and a working tree: it has no token and no network.

It reads its request on standard input, the pack from a pipe, then the outcome of the fetch on standard input, and
writes events to standard output (see :mod:`coderepos.git.wire`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Final

from coderepos.disk_errors import disk_error
from coderepos.exceptions import (
    CodeReposError,
    InternalError,
    OutOfMemory,
    RemoteProtocolError,
    SandboxUnavailable,
    StoreDamaged,
)
from coderepos.git.confinement import linux, profiles
from coderepos.git.descriptors import write_all
from coderepos.git.limits import Limits
from coderepos.git.pack.bare_repository import BareRepository
from coderepos.git.pack.connectivity import check_connected
from coderepos.git.pack.delta_tree import DeltaTree
from coderepos.git.pack.index import index_size, positions_by_id
from coderepos.git.pack.indexed_pack import CheckedObjects, IndexedPack, PositionsById
from coderepos.git.pack.indexer import Indexer
from coderepos.git.pack.object_links import Links
from coderepos.git.pack.pack_file import PIECE_BYTES, Pack
from coderepos.git.pack.resolver import Resolver
from coderepos.git.pack.scanner import PackScanner
from coderepos.git.process.emitter import Emit, emit_to, error_event
from coderepos.git.text import ref_bytes
from coderepos.git.wire import (
    MESSAGE_BYTES,
    BuildReport,
    BuildRequest,
    FetchOutcome,
    build_request,
    load_line,
    message_fields,
)
from coderepos.git.worktree.version import Objects, Version, write_version

_PROGRESS_SECONDS: Final = 0.25


def main(pack_fd: int) -> int:
    """Run the child process and return its exit status.

    :param pack_fd: descriptor that gives the pack bytes.
    """
    return run(sys.stdin.buffer, pack_fd, emit_to(sys.stdout.fileno()))


def run(control: IO[bytes], pack_fd: int, emit: Emit) -> int:
    """Confine this process for good, do what the request line says, and return the exit status.

    :param control: gives the request and, once the pack has arrived, the outcome of the fetch.
    """
    try:
        request = build_request(load_line(control.readline(MESSAGE_BYTES + 1)))
        emit({"event": "started", "isolation": profiles.confine_build(request)})
        report = build(request, pack_fd, lambda: read_outcome(control, request.limits), emit)
        emit({"event": "report", **message_fields(report)})
    except CodeReposError as error:
        emit(error_event(error))
        return 1
    except Exception as error:
        emit(error_event(translated(error), cause=error))
        return 1
    return 0


def translated(error: Exception) -> CodeReposError:
    """Return the error for an exception that is not ours."""
    if isinstance(error, MemoryError):
        return OutOfMemory()
    if isinstance(error, FileExistsError):
        # The directory was empty, so the file system treats two names as one, such as README and readme.
        return SandboxUnavailable(errno="EEXIST")
    if isinstance(error, OSError):
        return disk_error(error)
    return InternalError()


def read_outcome(control: IO[bytes], limits: Limits) -> FetchOutcome:
    """Wait for the outcome of the fetch and return it.

    :raises RemoteProtocolError: the fetch failed, so none comes.
    """
    line = control.readline(MESSAGE_BYTES + 1)
    if not line:
        raise RemoteProtocolError(reason="fetch ended early")
    return FetchOutcome.from_json(load_line(line), limits=limits)


def build(request: BuildRequest, pack_fd: int, wait_for_outcome: Callable[[], FetchOutcome], emit: Emit) -> BuildReport:
    """Build in ``request.incoming``; that it reaches the disk is the part of who publishes it."""
    incoming = os.open(request.incoming, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        maker = make_by_index if request.index_bytes else make
        return maker(request, incoming, pack_fd, wait_for_outcome, emit)
    finally:
        os.close(incoming)


def make(
    request: BuildRequest, incoming: int, pack_fd: int, wait_for_outcome: Callable[[], FetchOutcome], emit: Emit
) -> BuildReport:
    """Write ``git/`` and ``tree/`` to a directory, from the pack that arrives on ``pack_fd``.

    :param incoming: descriptor of the empty directory.
    :param wait_for_outcome: called once the pack has arrived.
    :raises GitError: the subclass for what is wrong with the pack or its trees.
    :raises OSError: the disk is full or fails.
    """
    limits, clock = request.limits, _Clock()
    git = BareRepository(incoming, group_readable=request.group_readable)
    pack_file = git.open_pack()
    try:
        pack = Pack(pack_file)
        with Resolver(pack, limits) as resolver:
            _scan(pack_fd, pack, limits, resolver, emit)
            linux.start_writeback(pack_file)
            clock.done("scan")
            resolver.finish()
            clock.done("resolve")
        with Indexer(pack, git, resolver.links) as indexer:
            objects = Objects(pack=pack, by_id=positions_by_id(pack), delta_tree=DeltaTree(pack, limits))
            outcome = wait_for_outcome()
            if outcome.pack_bytes != pack.size_bytes:
                raise RemoteProtocolError(reason="size of the pack")
            emit({"event": "progress", "phase": "writing"})
            pack_bytes = pack.size_bytes + index_size(pack)
            version = write_version(request, git, incoming, objects, outcome, pack_bytes=pack_bytes)
            clock.done("checkout")
            indexer.finish(lambda: _check_connected(resolver.links, objects, version))
        git.finish()
        clock.done("index")
    finally:
        os.close(pack_file)
    return _report(pack, version, clock)


def make_by_index(
    request: BuildRequest, incoming: int, pack_fd: int, wait_for_outcome: Callable[[], FetchOutcome], emit: Emit
) -> BuildReport:
    """Write the same as :func:`make`, from a pack and the index of it that an earlier build has written.

    :param pack_fd: descriptor that gives the bytes of the pack, then those of the index.
    :raises StoreDamaged: the index is not that of the pack, or an object is not that of its id.
    :raises GitError: the subclass for what is wrong with the pack or its trees.
    :raises OSError: the disk is full or fails.
    """
    limits, clock, outcome = request.limits, _Clock(), wait_for_outcome()
    git = BareRepository(incoming, group_readable=request.group_readable)
    pack_file = git.open_pack()
    try:
        for piece in _pieces(pack_fd, outcome.pack_bytes):
            write_all(pack_file, piece)
        linux.start_writeback(pack_file)
        index = b"".join(_pieces(pack_fd, request.index_bytes))
        clock.done("copy")
        emit({"event": "progress", "phase": "writing"})
        pack = IndexedPack(pack_file, outcome.pack_bytes, index, limits)
        git.write_index(pack.trailer, index)
        objects = Objects(pack=pack, by_id=PositionsById(pack), delta_tree=CheckedObjects(pack, limits))
        pack_bytes = outcome.pack_bytes + len(index)
        version = write_version(request, git, incoming, objects, outcome, pack_bytes=pack_bytes)
        if not _has_all_refs(version, outcome):
            raise StoreDamaged
        git.name_pack(pack.trailer)
        git.finish()
        clock.done("checkout")
    finally:
        os.close(pack_file)
    return _report(pack, version, clock)


def _has_all_refs(version: Version, outcome: FetchOutcome) -> bool:
    """Return whether nothing was left out that the version had before; an index may lack what it is to be found by."""
    names = {ref_bytes(name) for name, _ in outcome.tags}
    return names <= version.refs.ids.keys() and len(version.shallow) == len(outcome.shallow)


def _pieces(source: int, size_bytes: int) -> Iterator[bytes]:
    """Yield the next bytes of a descriptor.

    :raises StoreDamaged: there are less.
    """
    while size_bytes:
        piece = os.read(source, min(PIECE_BYTES, size_bytes))
        if not piece:
            raise StoreDamaged
        size_bytes -= len(piece)
        yield piece


def _check_connected(links: Links, objects: Objects, version: Version) -> None:
    by_id, refs = objects.by_id, version.refs
    tips = [by_id[bytes.fromhex(one)] for one in (refs.commit_id, *refs.ids.values(), *refs.peeled.values())]
    ends = {by_id[bytes.fromhex(one)] for one in version.shallow}
    check_connected(links, objects.pack, by_id, objects.delta_tree, tips, ends)


def _report(pack: Pack, version: Version, clock: _Clock) -> BuildReport:
    return BuildReport(
        commit_id=version.refs.commit_id,
        git_bytes=version.git_bytes,
        tree_bytes=version.total.disk_bytes,
        objects=len(pack),
        entries=version.total.entries,
        substitutions=version.substitutions.counts,
        substituted_paths=tuple(version.substitutions.paths),
        seconds=clock.seconds,
    )


def _scan(pack_fd: int, pack: Pack, limits: Limits, resolver: Resolver, emit: Emit) -> None:
    next_progress = 0.0

    def on_progress(objects: int, total: int) -> None:
        nonlocal next_progress
        resolver.advance()
        if objects == total or time.monotonic() >= next_progress:
            emit({"event": "progress", "phase": "receiving", "objects": objects, "total_objects": total})
            next_progress = time.monotonic() + _PROGRESS_SECONDS

    PackScanner(pack_fd, pack, limits, on_progress, resolver.add_links).scan()
    emit({"event": "progress", "phase": "resolving", "objects": len(pack), "total_objects": len(pack)})


class _Clock:
    """Measures the duration of each phase."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def done(self, phase: str) -> None:
        """Record the duration of the phase that ends now."""
        now = time.monotonic()
        self.seconds[phase] = round(now - self._last, 4)
        self._last = now
