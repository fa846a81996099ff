"""Writes the index of a pack on a second core, while the working tree is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

from coderepos.exceptions import UnsafeRepository
from coderepos.git.pack.bare_repository import GitFolder
from coderepos.git.pack.connectivity import are_complete
from coderepos.git.pack.index import index_of
from coderepos.git.pack.object_links import Links
from coderepos.git.pack.pack_file import Pack
from coderepos.git.process.fork import Forked, cores

_SHARED_OBJECTS: Final = 5_000  # below, a second process costs more than it brings


class Indexer:
    """Writes the index and names the pack; a context manager that leaves no process behind.

    :param pack: whose deltas are resolved.
    :param links: what its trees and commits name; there is no index where some of it is missing.
    """

    def __init__(self, pack: Pack, git: GitFolder, links: Links) -> None:
        self._pack: Final = pack
        self._git: Final = git
        self._links: Final = links
        self._process: Forked | None = None

    def __enter__(self) -> Self:
        if len(self._pack) >= _SHARED_OBJECTS and cores() > 1:
            self._process = Forked(self._write_of_complete_pack)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process:
            self._process.end()

    def finish(self, check: Callable[[], None]) -> None:
        """See the index written, and the pack named.

        :param check: raises an error where something is missing that may not be.
        :raises OSError: the disk is full or fails.
        """
        # Whatever stopped a second process stops this one too, which can say so.
        if not self._process or not self._process.succeeded():
            check()
            self._write()
        self._git.name_pack(self._pack.trailer)

    def _write_of_complete_pack(self) -> None:
        if not are_complete(self._links, self._pack):
            raise UnsafeRepository
        self._write()

    def _write(self) -> None:
        self._git.write_index(self._pack.trailer, index_of(self._pack))
