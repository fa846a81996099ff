"""Resolves the deltas of a pack on a second core, while the pack still arrives.

Real packs keep families together, so that nearly all deltas of a stretch of the stream are built on objects of the same
stretch. Whenever enough of them wait and no second process is at work, one is forked for them: it finds all that it
needs in its copy of this process's memory and in the pack file, and leaves ids in memory that both share. What it does
not finish is done here at the end, and so is every error told here.
"""

from __future__ import annotations

from typing import Final, Self

from coderepos.git.limits import Limits
from coderepos.git.pack.delta import LARGE_BYTES, STEP_BYTES, prepare
from coderepos.git.pack.delta_tree import Families
from coderepos.git.pack.object_links import Links, SharedLinks
from coderepos.git.pack.pack_file import Pack
from coderepos.git.pack.stream_order import OutOfOrder, StreamOrder
from coderepos.git.process.fork import Forked, cores

_ROUND_WORK: Final = 12 * 10**6
"""Work for which a second process is worth its start, about 15 ms of it; counted in bytes, see ``STEP_BYTES``."""

_MOST_ROUND_WORK: Final = 160 * 10**6
"""Most work that it is given at once, so that the last round ends soon after the pack."""

_STEP_WORK: Final = 6 * 10**6
"""Work that is done here before looking after the second process again."""


class Resolver:
    """Fills in what the scan of a pack leaves open; a context manager that leaves no process behind."""

    def __init__(self, pack: Pack, limits: Limits) -> None:
        self._pack: Final = pack
        self._limits: Final = limits
        self._has_second_core: Final = cores() > 1
        self.links: Final = Links(limits.objects)
        """What the trees and commits of the pack name, once everything is resolved."""
        self._unread_links: Final[list[int]] = []
        self._here: Final = StreamOrder(pack, self.links)
        self._is_regular = True
        self._taken = 0
        self._taken_result_bytes = 0
        self._round: tuple[Forked, range, SharedLinks] | None = None
        self._left: Final[list[range]] = []
        prepare()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._round:
            self._round[0].end()

    def advance(self) -> None:
        """Give what waits to a second process, if that is worth it now; called between two entries of the scan."""
        if self._waiting_work() >= _ROUND_WORK and self._may_start_round() and self._is_paid_for():
            self._start_round(_MOST_ROUND_WORK)

    def add_links(self, position: int, kind: int, data: bytes | None) -> None:
        """Note what a tree or commit names that is no delta; without its content it is read again later."""
        if data is None:
            self._unread_links.append(position)
        else:
            self.links.add(kind, data)

    def finish(self) -> None:
        """Resolve whatever is left, once the whole pack was read.

        :raises RemoteProtocolError: a delta does not fit its base, or its base is not in the pack.
        :raises InflatedTooLarge: too much had to be made again.
        """
        pack, families, links = self._pack, Families(self._pack, self._limits), self.links
        for position in self._unread_links:
            links.add(pack.kinds[position], pack.undeltified(position))
        if pack.based_by_id:
            families.resolve_by_id(links)
            return
        while self._taken < len(pack) and self._check_regular():
            if (work := self._waiting_work()) >= 2 * _ROUND_WORK and self._may_start_round():
                self._start_round(min(work // 2, _MOST_ROUND_WORK))
            self._resolve_here(self._take(_STEP_WORK))
        self._collect()
        for positions in (*self._left, range(self._taken, len(pack))):
            families.resolve(positions, links)

    def _may_start_round(self) -> bool:
        if self._round and self._round[0].has_ended():
            self._collect()
        return self._has_second_core and self._round is None and self._check_regular()

    def _check_regular(self) -> bool:
        """May what waits be resolved in the order of the stream? Once it may not, all that comes later may not."""
        pack = self._pack
        if pack.based_by_id or pack.largest_bytes > LARGE_BYTES:
            self._is_regular = False
        return self._is_regular

    def _is_paid_for(self) -> bool:
        """Do the bytes that arrived so far pay for all that their deltas make? In the end the whole pack has to."""
        pack = self._pack
        return pack.inflated_bytes + pack.result_bytes <= self._limits.inflated_bytes(pack.offsets[-1])

    def _waiting_work(self) -> int:
        pack = self._pack
        return pack.result_bytes - self._taken_result_bytes + STEP_BYTES * len(pack.deltas)

    def _start_round(self, most_work: int) -> None:
        pack, positions = self._pack, self._take(most_work)
        shared = SharedLinks(self.links, pack.capacity)

        def resolve() -> None:
            links = Links(pack.capacity)
            StreamOrder(pack, links).resolve(positions)
            shared.store(links)

        self._round = Forked(resolve), positions, shared
        pack.forget(positions)

    def _collect(self) -> None:
        """Wait for the second process; what it could not do is left for the end, which tells why."""
        if self._round:
            process, positions, shared = self._round
            self._round = None
            if process.succeeded():
                shared.collect()
            else:
                self._leave(positions)

    def _resolve_here(self, positions: range) -> None:
        try:
            self._here.resolve(positions)
        except OutOfOrder:
            self._leave(positions)

    def _leave(self, positions: range) -> None:
        self._left.append(positions)
        self._is_regular = False

    def _take(self, most_work: int) -> range:
        """Return the next positions, as many as make so much work, and at least one."""
        bases, sizes = self._pack.bases, self._pack.sizes
        first = end = self._taken
        while end < len(bases) and most_work > 0:
            if bases[end] >= 0:
                most_work -= sizes[end] + STEP_BYTES
                self._taken_result_bytes += sizes[end]
            end += 1
        self._taken = end
        return range(first, end)
