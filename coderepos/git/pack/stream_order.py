"""Resolves the deltas of a contiguous range of a pack in the order of the stream.

Git writes deltas close to their bases, and after them, so that nearly every base was built a moment ago and is still
cached. This takes a fifth less time than walking the delta trees (:mod:`coderepos.git.pack.delta_tree`), which works
for any order.
"""

from __future__ import annotations

from collections import deque
from hashlib import sha1
from typing import Final

from coderepos.git.pack.delta import DELTA_OVERHEAD_BYTES, apply_delta
from coderepos.git.pack.object_links import Links
from coderepos.git.pack.pack_file import ID_BYTES, TREE, TYPE_NAMES, Pack

_CACHE_BYTES: Final = 8 * 10**6
_SLACK_WORK: Final = 40 * 10**6
"""Rebuilding that is allowed before any delta was resolved."""

_TYPE_HEADS: Final = {kind: name + b" %d\0" for kind, name in TYPE_NAMES.items()}


class OutOfOrder(Exception):
    """The bases are so far away that walking the delta trees takes less time; never leaves the build child."""


class StreamOrder:
    """Resolves contiguous ranges one after the other; its cache of the newest objects lives on between them.

    Rebuilding evicted bases may take as much work as the deltas themselves, and :data:`_SLACK_WORK` more. Work is
    counted in bytes, with :data:`~coderepos.git.pack.delta.DELTA_OVERHEAD_BYTES` for each delta.

    :param links: receives the ids that the trees and commits resolved here name.
    """

    def __init__(self, pack: Pack, links: Links) -> None:
        self._pack: Final = pack
        self._links: Final = links
        self._cached: Final[dict[int, bytes]] = {}
        """Content by position."""
        self._cached_order: Final[deque[int]] = deque()
        """Positions in the cache, oldest first; the first key of a dictionary is slow to find after many removals."""
        self._cached_bytes = 0
        self._allowed_work = _SLACK_WORK

    def resolve(self, positions: range) -> None:
        """Fill in the ids of the deltas among ``positions``; all bases are given by offset, and no object is large.

        :raises OutOfOrder: too much has to be rebuilt.
        :raises RemoteProtocolError: a delta does not fit its base.
        """
        pack, cached, cache, add_links = self._pack, self._cached, self._cache, self._links.add
        new_digest = sha1(usedforsecurity=False).copy
        bases, kinds, sizes, ids, delta = pack.bases, pack.kinds, pack.sizes, pack.ids, pack.delta
        for position in positions:
            base_position = bases[position]
            if base_position < 0:
                continue
            base = cached.get(base_position)
            if base is None:
                base = self._rebuild(base_position)
            data = apply_delta(base, delta(position), result_bytes=sizes[position])
            kind = kinds[position]
            digest = new_digest()
            digest.update(_TYPE_HEADS[kind] % len(data))
            digest.update(data)
            ids[position * ID_BYTES : position * ID_BYTES + ID_BYTES] = digest.digest()
            if kind <= TREE:
                add_links(kind, data)
            cache(position, data)

    def _cache(self, position: int, data: bytes) -> None:
        """Put an object into the cache, and evict the oldest ones past the budget."""
        cached, order = self._cached, self._cached_order
        cached[position] = data
        order.append(position)
        self._cached_bytes += len(data)
        self._allowed_work += len(data) + DELTA_OVERHEAD_BYTES
        while self._cached_bytes > _CACHE_BYTES:
            self._cached_bytes -= len(cached.pop(order.popleft()))

    def _rebuild(self, position: int) -> bytes:
        """Return an object that was evicted or never cached."""
        pack, sizes, chain = self._pack, self._pack.sizes, []
        base: bytes | None = None
        while base is None:
            chain.append(position)
            # Twice, since caching it will allow for as much again.
            self._allowed_work -= 2 * (sizes[position] + DELTA_OVERHEAD_BYTES)
            if self._allowed_work < 0:
                raise OutOfOrder
            position = pack.bases[position]
            if position < 0:
                root = chain.pop()
                base = pack.undeltified(root)
                self._cache(root, base)
            else:
                base = self._cached.get(position)
        data = base
        while chain:
            position = chain.pop()
            data = apply_delta(data, pack.delta(position), result_bytes=sizes[position])
            self._cache(position, data)
        return data
