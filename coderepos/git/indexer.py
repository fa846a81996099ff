"""Writes the index of a pack on a second core, while the working tree is written."""

from __future__ import annotations

from coderepos.git.forked import Forked, cores
from coderepos.git.pack_index import index_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Self

    from coderepos.git.git_folder import GitFolder
    from coderepos.git.pack import Pack

_SHARED_OBJECTS: Final = 5_000  # below, a second process costs more than it brings


class Indexer:
    """Writes the index and names the pack; a context manager that leaves no process behind.

    :param pack: whose deltas are resolved.
    """

    def __init__(self, pack: Pack, git: GitFolder) -> None:
        self._pack: Final = pack
        self._git: Final = git
        self._process: Forked | None = None

    def __enter__(self) -> Self:
        if len(self._pack) >= _SHARED_OBJECTS and cores() > 1:
            self._process = Forked(self._write)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process:
            self._process.end()

    def finish(self) -> None:
        """See the index written, and the pack named.

        :raises OSError: the disk is full or fails.
        """
        # Whatever stopped a second process stops this one too, which can say so.
        if not self._process or not self._process.succeeded():
            self._write()
        self._git.name_pack(self._pack.trailer)

    def _write(self) -> None:
        self._git.write_index(self._pack.trailer, index_of(self._pack))
