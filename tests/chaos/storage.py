"""A storage for packs that is away, or slow, for a while."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from coderepos.storage import DirectoryStorage

SLOW_SECONDS = 3


def away_file(packs: Path) -> Path:
    """Return the file that is there while the storage is away."""
    return packs.with_name(f"{packs.name}.away")


def slow_file(packs: Path) -> Path:
    """Return the file that is there while the storage is slow."""
    return packs.with_name(f"{packs.name}.slow")


class UnreliableStorage(DirectoryStorage):
    """A shared directory whose calls fail while one file is there, and take their time while another is.

    :param away: path of the one.
    :param slow: path of the other.
    """

    def __init__(self, location: str, away: str, slow: str) -> None:
        super().__init__(location)
        self._away, self._slow = Path(away), Path(slow)

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        self._suffer()
        return super().exists(name)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        self._suffer()
        return super().size(name)

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        """Return the names in a directory."""
        self._suffer()
        return super().listdir(path)

    def delete(self, name: str) -> None:
        """Remove a file."""
        self._suffer()
        super().delete(name)

    def _open(self, name: str, mode: str = "rb") -> Any:
        self._suffer()
        return super()._open(name, mode)

    def _save(self, name: str, content: Any) -> str:
        self._suffer()
        saved = super()._save(name, content)
        self._suffer()
        return saved

    def _suffer(self) -> None:
        if self._slow.exists():
            time.sleep(SLOW_SECONDS)
        if self._away.exists():
            raise ConnectionResetError("The storage is away")
