"""A database, a Git server with repositories, and two clusters of workers, all of them real."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster import Cluster, children_of
from tests.git.http_backend import GitServer, git, make_repository
from tests.postgres import TemporaryServer

SOURCES = 6
BYTES_PER_SECOND = 60_000
"""Rate of the Git server: a clone takes some seconds, so that there is something to interrupt."""

RESTART_SECONDS = 8
"""How soon a supervisor starts a cluster that ended."""


class Member:
    """One cluster under a supervisor that starts it again, and what was done to it."""

    def __init__(self, make: Callable[[], Cluster], name: str) -> None:
        self.name = name
        self._make = make
        self.cluster = make()
        self.impaired_until = 0.0
        """Until then something is wrong with it that it does not recover from at once."""

    def __enter__(self) -> Member:
        self.cluster.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.wake()
        self.cluster.kill()

    @property
    def is_impaired(self) -> bool:
        return time.monotonic() < self.impaired_until

    def impair(self, seconds: float) -> None:
        self.impaired_until = max(self.impaired_until, time.monotonic() + seconds)

    def restart(self) -> None:
        """End what is left of it, as a supervisor does, and start it again."""
        self.wake()
        self.cluster.kill()
        self.cluster = self._make()
        self.cluster.__enter__()

    def wake(self) -> None:
        """Let every process go on."""
        for pid in self.cluster.pids():
            send(pid, signal.SIGCONT)

    def sentinel(self) -> int | None:
        """Return the process that guards the workers."""
        found = children_of(self.cluster.process.pid)
        return found[0] if found else None

    def helpers(self) -> list[int]:
        """Return workers, monitor and pusher."""
        sentinel = self.sentinel()
        return [] if sentinel is None else children_of(sentinel)

    def busy_worker(self) -> tuple[int, list[int]] | None:
        """Return a worker that clones, stopped, and its children; it is stopped before it is looked at.

        A worker that is idle by the time it is killed would take the lock of its cluster's queue along.
        """
        for pid in random.sample(helpers := self.helpers(), len(helpers)):
            if children := children_of(pid):
                send(pid, signal.SIGSTOP)
                if children := children_of(pid):
                    return pid, children
                send(pid, signal.SIGCONT)
        return None


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def database(kind: str, folder: Path) -> Iterator[tuple[str, TemporaryServer | None]]:
    """Make a database, and yield its URL and the server, where there is one."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'db.sqlite3'}", None
        return
    with TemporaryServer() as server:
        yield server.url, server


def make_sources(root: Path) -> dict[str, Path]:
    """Make repositories that differ, and return their working trees by name."""
    sources = {}
    for number in range(SOURCES):
        source = make_repository(root / f"source{number}", commits=2 + number)
        (source / "folder").mkdir()
        (source / "folder" / "noise").write_bytes(os.urandom(100_000 + 50_000 * number))
        (source / "run").write_text(f"#!/bin/sh\necho {number}\n")
        (source / "run").chmod(0o755)
        git("add", "-A", cwd=source)
        git("commit", "--quiet", "-m", "noise", cwd=source)
        sources[source.name] = source
    return sources


def slow(root: Path, credentials: tuple[str, str]) -> GitServer:
    """Return the Git server of the chaos."""
    return GitServer(root, credentials=credentials, bytes_per_second=BYTES_PER_SECOND)
