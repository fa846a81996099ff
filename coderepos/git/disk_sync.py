"""Writes what a build left to its disk, while something else looks at it: the call takes as long as the disk does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from coderepos.git.confinement import linux

_TICK_SECONDS: Final = 0.2


class DiskSync:
    """One call of syncfs(2), in a thread of its own: a disk that hangs does not hold up whoever waits.

    :param directory: absolute path of a directory on the file system.
    :raises OSError: the directory can't be opened.
    """

    def __init__(self, directory: Path) -> None:
        self._errors: Final[list[OSError]] = []
        self._descriptor: Final = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._thread: Final = threading.Thread(target=self._run, name="coderepos-sync", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            os.close(self._descriptor)
            raise

    def wait(self, on_tick: Callable[[], None]) -> None:
        """Wait until everything is on the disk.

        :param on_tick: called at least five times a second; what it raises ends the wait, but not the call.
        :raises OSError: the disk is full or fails.
        """
        while self._thread.is_alive():
            on_tick()
            self._thread.join(_TICK_SECONDS)
        if self._errors:
            raise self._errors[0]

    def _run(self) -> None:
        try:
            linux.sync_filesystem(self._descriptor)
        except OSError as error:
            self._errors.append(error)
        finally:
            os.close(self._descriptor)
