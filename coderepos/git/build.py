"""The child process that turns a pack into Git data and a working tree: it has no token and no network.

It reads its request on standard input, the pack from a pipe, then the outcome of the fetch on standard input, and
writes events to standard output (see :mod:`coderepos.git.wire`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Final

from coderepos.disk_errors import disk_error
from coderepos.exceptions import (
    CodeReposError,
    InternalError,
    OutOfMemory,
    RemoteProtocolError,
    SandboxUnavailable,
    UnsafeRepository,
)
from coderepos.git.confinement import linux, profiles
from coderepos.git.limits import Limits
from coderepos.git.pack.bare_repository import BareRepository
from coderepos.git.pack.connectivity import check_connected
from coderepos.git.pack.delta_tree import DeltaTree
from coderepos.git.pack.index import index_size, positions_by_id
from coderepos.git.pack.indexer import Indexer
from coderepos.git.pack.pack_file import COMMIT, Pack
from coderepos.git.pack.peeling import Peeler, commit_and_tree
from coderepos.git.pack.published_refs import published_refs
from coderepos.git.pack.resolver import Resolver
from coderepos.git.pack.scanner import PackScanner
from coderepos.git.process.emitter import Emit, emit_to, error_event
from coderepos.git.substitutions import Substitutions
from coderepos.git.wire import (
    MESSAGE_BYTES,
    BuildReport,
    BuildRequest,
    FetchOutcome,
    build_request,
    load_line,
    message_fields,
)
from coderepos.git.worktree.checkout import Checkout
from coderepos.git.worktree.trees import read_trees

TREE_NAME: Final = b"tree"

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
    """Run :func:`make` in ``request.incoming``; that it reaches the disk is the part of who publishes it."""
    incoming = os.open(request.incoming, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return make(request, incoming, pack_fd, wait_for_outcome, emit)
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
            delta_tree = DeltaTree(pack, limits)
            by_id = positions_by_id(pack)
            outcome = wait_for_outcome()
            if outcome.pack_bytes != pack.size_bytes:
                raise RemoteProtocolError(reason="size of the pack")
            emit({"event": "progress", "phase": "writing"})
            peeler, substitutions = Peeler(pack, by_id, delta_tree), Substitutions()
            wanted_id = bytes.fromhex(outcome.wanted_id)
            commit_id, tree_id = commit_and_tree(wanted_id, pack, by_id, delta_tree, peeler)
            refs = published_refs(outcome, commit_id.hex(), pack, by_id, peeler, substitutions)
            shallow = [one for one in outcome.shallow if _is_in(pack, bytes.fromhex(one), by_id)]
            git_bytes = pack.size_bytes + index_size(pack) + git.add_refs(refs, shallow)
            trees = read_trees(tree_id, pack, by_id, delta_tree, limits, other_bytes=git_bytes)
            if trees.lacks_empty_tree:
                git_bytes += git.add_empty_tree()
            checkout = Checkout(incoming, TREE_NAME, trees, pack, substitutions, group_readable=request.group_readable)
            checkout.write(delta_tree)
            clock.done("checkout")
            tips = [by_id[bytes.fromhex(one)] for one in (refs.commit_id, *refs.ids.values(), *refs.peeled.values())]
            ends = {by_id[bytes.fromhex(one)] for one in shallow}
            indexer.finish(lambda: check_connected(resolver.links, pack, by_id, delta_tree, tips, ends))
        git.finish()
        clock.done("index")
    finally:
        os.close(pack_file)
    return BuildReport(
        commit_id=commit_id.hex(),
        git_bytes=git_bytes,
        tree_bytes=trees.total.disk_bytes,
        objects=len(pack),
        entries=trees.total.entries,
        substitutions=substitutions.counts,
        substituted_paths=tuple(substitutions.paths),
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


def _is_in(pack: Pack, commit_id: bytes, by_id: Mapping[bytes, int]) -> bool:
    """Return whether a shallow commit is in the pack; Git ignores those that are not.

    :raises UnsafeRepository: the object is in the pack, but is not a commit.
    """
    position = by_id.get(commit_id)
    if position is not None and pack.kinds[position] != COMMIT:
        raise UnsafeRepository(reason="history ends at no commit")
    return position is not None


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
