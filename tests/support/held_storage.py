"""A shared directory that hangs in the middle of a call, as one of a server that went away does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coderepos.storage import DirectoryStorage


class HeldStorage(DirectoryStorage):
    """Hangs while a file is there.

    :param held: path of that file; ``{held}.reached`` is made as soon as a call hangs.
    """

    def __init__(self, location: str, held: str) -> None:
        super().__init__(location)
        self._held = Path(held)

    def delete(self, name: str) -> None:
        """Remove a file, after a while."""
        self._hang()
        super().delete(name)

    def _open(self, name: str, mode: str = "rb") -> Any:
        self._hang()
        return super()._open(name, mode)

    def _save(self, name: str, content: Any) -> str:
        return super()._save(name, _Halves(content, self._hang))

    def _hang(self) -> None:
        while self._held.exists():
            self._held.with_name(f"{self._held.name}.reached").touch()
            time.sleep(0.02)


class _Halves:
    def __init__(self, content: Any, pause: Any) -> None:
        self._content = content
        self._pause = pause

    def chunks(self) -> Iterator[bytes]:
        """Yield the content, with a pause after its first bytes."""
        for chunk in self._content.chunks():
            yield chunk[:100]
            self._pause()
            yield chunk[100:]
