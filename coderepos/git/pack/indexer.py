"""Writes the index of a pack on a second core, while the working tree is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

from coderepos.exceptions import UnsafeRepository
from coderepos.git.pack.bare_repository import BareRepository
from coderepos.git.pack.connectivity import are_complete
from coderepos.git.pack.index import index_of
from coderepos.git.pack.object_links import Links
from coderepos.git.pack.pack_file import Pack
from coderepos.git.process.fork import Forked, cores

_MIN_SHARED_OBJECTS: Final = 20_000  # for fewer a second process costs more than it saves


class Indexer:
    """Writes the index and gives the pack its final name; a context manager that leaves no process behind.

    :param pack: must have its deltas resolved.
    :param links: the ids that its trees and commits name; a pack that lacks some of them gets no index.
    """

    def __init__(self, pack: Pack, repository: BareRepository, links: Links) -> None:
        self._pack: Final = pack
        self._repository: Final = repository
        self._links: Final = links
        self._process: Forked | None = None

    def __enter__(self) -> Self:
        if len(self._pack) >= _MIN_SHARED_OBJECTS and cores() > 1:
            self._process = Forked(self._write_if_complete)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process:
            self._process.end()

    def finish(self, check: Callable[[], None]) -> None:
        """Complete the index and name the pack.

        :param check: raises the error for a pack that is not connected.
        :raises OSError: the disk is full or fails.
        """
        # A second process cannot pass its error on; here the same error is raised again.
        if not self._process or not self._process.succeeded():
            check()
            self._write()
        self._repository.name_pack(self._pack.trailer)

    def _write_if_complete(self) -> None:
        if not are_complete(self._links, self._pack):
            raise UnsafeRepository
        self._write()

    def _write(self) -> None:
        self._repository.write_index(self._pack.trailer, index_of(self._pack))
