"""Resolves the deltas of a pack on a second core, while the pack still arrives.

In real packs the bases of nearly all deltas are close before them. So whenever enough unresolved deltas have arrived
and no second process is running, one is forked for this batch, a contiguous range of the pack. It finds what it needs
in its copy of this process's memory and in the pack file, and writes ids to memory that both share. What it cannot
resolve is deferred to the end and resolved in this process, which then also raises the error, if there is one.
"""

from __future__ import annotations

from typing import Final, Self

from coderepos.git.limits import Limits
from coderepos.git.pack.delta import DELTA_OVERHEAD_BYTES, LARGE_BYTES
from coderepos.git.pack.delta_tree import DeltaTree
from coderepos.git.pack.object_links import Links, SharedLinks
from coderepos.git.pack.pack_file import Pack
from coderepos.git.pack.stream_order import OutOfOrder, StreamOrder
from coderepos.git.process.fork import Forked, cores

_MIN_BATCH_WORK: Final = 40 * 10**6
"""Least work that is worth forking for, about 50 ms: after a fork, both processes copy each page that they write to.

Work is counted in bytes, with ``DELTA_OVERHEAD_BYTES`` for each delta.
"""

_MAX_BATCH_WORK: Final = 160 * 10**6
"""Most work of one batch, so that the last one ends soon after the pack."""

_STEP_WORK: Final = 6 * 10**6
"""Work done here before checking on the second process again."""


class Resolver:
    """Fills in what the scan of a pack leaves open; a context manager that leaves no process behind."""

    def __init__(self, pack: Pack, limits: Limits) -> None:
        self._pack: Final = pack
        self._limits: Final = limits
        self._has_second_core: Final = cores() > 1
        self.links: Final = Links(limits.objects)
        """The ids that the trees and commits of the pack name, complete once everything is resolved."""
        self._unread_links: Final[list[int]] = []
        self._stream_order: Final = StreamOrder(pack, self.links)
        self._is_viable = True
        self._taken = 0
        self._taken_work = 0
        self._batch: tuple[Forked, range, SharedLinks] | None = None
        self._deferred: Final[list[range]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._batch:
            self._batch[0].end()

    def advance(self) -> None:
        """Fork a batch for what has arrived, if that is worth it now; called between two entries of the scan."""
        if self._pending_work() >= _MIN_BATCH_WORK and self._may_start_batch() and self._within_inflation_limit():
            self._start_batch(_MAX_BATCH_WORK)

    def add_links(self, position: int, kind: int, data: bytes | None) -> None:
        """Add the links of a tree or commit that is not a delta; ``None`` as content defers reading it."""
        if data is None:
            self._unread_links.append(position)
        else:
            self.links.add(kind, data)

    def finish(self) -> None:
        """Resolve all remaining deltas, once the whole pack was read.

        :raises RemoteProtocolError: a delta does not fit its base, or its base is not in the pack.
        :raises InflatedTooLarge: too much had to be rebuilt.
        """
        pack, delta_tree, links = self._pack, DeltaTree(self._pack, self._limits), self.links
        for position in self._unread_links:
            links.add(pack.kinds[position], pack.undeltified(position))
        if pack.ref_deltas:
            delta_tree.resolve_by_id(links)
            return
        while self._taken < len(pack) and self._stream_order_viable():
            if (work := self._pending_work()) >= _MIN_BATCH_WORK and self._may_start_batch():
                self._start_batch(min(work // 2, _MAX_BATCH_WORK))
            self._resolve_here(self._take(_STEP_WORK))
        self._collect()
        for positions in (*self._deferred, range(self._taken, len(pack))):
            delta_tree.resolve(positions, links)

    def _may_start_batch(self) -> bool:
        if self._batch and self._batch[0].has_ended():
            self._collect()
        return self._has_second_core and self._batch is None and self._stream_order_viable()

    def _stream_order_viable(self) -> bool:
        """Return whether deltas may be resolved in the order of the stream; once it is ``False`` it stays so."""
        pack = self._pack
        if pack.ref_deltas or pack.largest_bytes > LARGE_BYTES:
            self._is_viable = False
        return self._is_viable

    def _within_inflation_limit(self) -> bool:
        """Return whether resolving all that has arrived keeps to the limit, which grows with the pack."""
        pack = self._pack
        return pack.inflated_bytes + pack.result_bytes <= self._limits.inflated_bytes(pack.offsets[-1])

    def _pending_work(self) -> int:
        pack = self._pack
        return pack.result_bytes + DELTA_OVERHEAD_BYTES * pack.delta_count - self._taken_work

    def _start_batch(self, max_work: int) -> None:
        pack, positions = self._pack, self._take(max_work)
        shared = SharedLinks(pack.total)

        def resolve() -> None:
            links = Links(pack.total)
            StreamOrder(pack, links).resolve(positions)
            shared.store(links)

        self._batch = Forked(resolve), positions, shared
        pack.evict(positions.stop)

    def _collect(self) -> None:
        """Wait for the second process, and defer its batch where it failed: the end finds out why."""
        if self._batch:
            process, positions, shared = self._batch
            self._batch = None
            if process.succeeded():
                shared.add_to(self.links)
            else:
                self._defer(positions)

    def _resolve_here(self, positions: range) -> None:
        try:
            self._stream_order.resolve(positions)
        except OutOfOrder:
            self._defer(positions)

    def _defer(self, positions: range) -> None:
        self._deferred.append(positions)
        self._is_viable = False

    def _take(self, max_work: int) -> range:
        """Take the next range of positions, with about this much work and at least one position."""
        bases, sizes = self._pack.bases, self._pack.sizes
        first = end = self._taken
        last_work = self._taken_work + max_work
        while end < len(bases) and self._taken_work < last_work:
            if bases[end] >= 0:
                self._taken_work += sizes[end] + DELTA_OVERHEAD_BYTES
            end += 1
        self._taken = end
        return range(first, end)
