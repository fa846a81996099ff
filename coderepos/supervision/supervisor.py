"""Runs one cluster of workers below itself, and ends it, and then itself, when it stands still or is told to stop."""

from __future__ import annotations

import logging
import mmap
import os
import signal
import sys
import time
from types import FrameType
from typing import Final, NoReturn

from django.db import connections

from coderepos import queues
from coderepos.git.confinement.linux import die_with_parent
from coderepos.supervision.look import Look, Seen
from coderepos.supervision.reports import Reports, Workers

STOP_SECONDS: Final = 60
"""How long running tasks may take to end after a stop, unless the operator says otherwise."""

STALL_SECONDS: Final = 45
"""How long workers may be free, and begin nothing, while jobs are due."""

START_SECONDS: Final = 60
"""How long a cluster may take until its first worker is there."""

LOOK_EVERY_SECONDS: Final = 5
TICK_SECONDS: Final = 0.5

FROZEN_SECONDS: Final = 10
"""A pause of this process after which it has to look anew: it was stopped, or the machine slept."""

DEAF_SECONDS: Final = 3
"""How long a cluster that may be deaf has to store the results of its last tasks."""

GONE_SECONDS: Final = 5
"""How long the kernel may take to end what is left of a killed cluster."""

STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that stop the cluster in order: of systemd and containers, of Ctrl-C, and of a terminal that is closed."""

_CANNOT_START: Final = 3
_SENTINEL_DIED: Final = 4

logger = logging.getLogger(__name__)


class Supervisor:
    """One cluster and its watcher.

    :param stop_seconds: how long running tasks may take to end after a stop; then they are killed, their jobs' leases
        expire, and other workers take them over.
    """

    def __init__(self, *, stop_seconds: float = STOP_SECONDS) -> None:
        self._stop_seconds: Final = stop_seconds
        self._stopping: Final = mmap.mmap(-1, 1)
        self._looking: Look | None = None
        self._looked_at = -float(LOOK_EVERY_SECONDS)
        self._seen = Seen.NOTHING_DUE
        self._reachable = True

    def run(self) -> int:
        """Run the cluster until it ends, and return the exit status: 0 after a stop, 1 where it failed."""
        for number in STOPPING:
            # nohup(1) has SIGHUP ignored, and that is meant.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        # An app of the host may have asked its database while Django started: no connection survives being shared.
        connections.close_all()
        if not self._wait_for_database():
            return 0
        reports = Reports()
        parent = os.getpid()
        main = os.fork()
        if not main:
            self._be_cluster(reports, parent)
        workers = reports.receiver()
        cluster = _Cluster(main, workers, stop_seconds=self._stop_seconds)
        try:
            return self._watch(cluster, workers)
        finally:
            cluster.kill()
            workers.close()
            if self._looking:
                self._looking.end()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopping[0] = 1

    @property
    def is_stopping(self) -> bool:
        """Whether a signal told this process to stop; shared with the whole cluster."""
        return bool(self._stopping[0])

    def _wait_for_database(self) -> bool:
        """Wait until database and broker can be used, and return whether the cluster shall start."""
        while not self.is_stopping:
            if self._look() and self._reachable:
                return True
            time.sleep(0.1)
        if self._looking:
            self._looking.end()
        return False

    def _look(self) -> bool:
        """Look every few seconds, and return whether something new was seen."""
        if self._looking is None:
            if time.monotonic() - self._looked_at < LOOK_EVERY_SECONDS:
                return False
            self._looking, self._looked_at = Look(), time.monotonic()
        seen = self._looking.seen()
        if seen is None:
            return False
        self._looking, self._seen = None, seen
        reachable = seen != Seen.UNREACHABLE
        if reachable != self._reachable:
            text = "are back" if reachable else "do not answer: waiting for them"
            logger.log(logging.INFO if reachable else logging.ERROR, "The database or the broker %s", text)
        self._reachable = reachable
        return True

    def _be_cluster(self, reports: Reports, parent: int) -> NoReturn:
        status = _CANNOT_START
        try:
            for number in STOPPING:
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)
            # What is sent to the group of the supervisor is for that alone, which passes it on.
            os.setsid()
            die_with_parent(parent)
            report = reports.sender()
            ended_well = queues.current().run_workers(report=report, is_stopping=lambda: self.is_stopping)
            status = 0 if ended_well else _SENTINEL_DIED
        except Exception:
            logger.exception("The cluster can't start")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _watch(self, cluster: _Cluster, workers: Workers) -> int:
        started = ticked = time.monotonic()
        while not self.is_stopping:
            workers.listen(TICK_SECONDS)
            if time.monotonic() - ticked > FROZEN_SECONDS:
                workers.reset_stall()
            ticked = time.monotonic()
            cluster.reap_orphans(but=self._looking)
            if (status := cluster.exit_status()) is not None:
                return self._failed(f"The cluster ended by itself: {_reason(status)}")
            if not workers.any_seen and ticked - started > START_SECONDS:
                return self._failed(f"No worker has started within {START_SECONDS} s: ending the cluster")
            if self._look() and self._stands_still(workers):
                text = f"{workers.free} workers of this cluster are free and have begun nothing for {STALL_SECONDS} s"
                self._failed(f"Jobs are due and {text}: ending it. One that is killed while idle leaves the rest deaf")
                cluster.stop(deaf=True)
                return 1
        cluster.stop()
        return 0

    def _failed(self, text: str) -> int:
        """Say why the cluster ends and tell it so; return the exit status."""
        if self.is_stopping:
            return 0
        self._stopping[0] = 1
        logger.critical("%s", text)
        return 1

    def _stands_still(self, workers: Workers) -> bool:
        if self._seen in (Seen.UNREACHABLE, Seen.NOTHING_DUE):
            workers.reset_stall()
            return False
        if workers.stalled_seconds < STALL_SECONDS:
            return False
        return self._seen == Seen.CLAIMABLE or workers.died_free


class _Cluster:
    """The main process of the cluster, as its parent sees it."""

    def __init__(self, pid: int, workers: Workers, *, stop_seconds: float) -> None:
        self._pid: Final = pid
        self._workers: Final = workers
        self._stop_seconds: Final = stop_seconds
        self._status: int | None = None
        self._idle_since = time.monotonic()

    def exit_status(self) -> int | None:
        """Return the exit status, or the negative number of the signal that ended it; ``None`` while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def reap_orphans(self, *, but: Look | None) -> None:
        """Reap what was left to this process by parents that ended, as the first process of a container has to."""
        known = {self._pid, but.pid if but else self._pid}
        while (ended := _any_ended_child()) and ended not in known:
            os.waitpid(ended, 0)

    def stop(self, *, deaf: bool = False) -> None:
        """Let running tasks end, then end what is left.

        :param deaf: whether free workers do not hear that they shall end, so that only the busy ones are waited for.
        """
        self._idle_since = time.monotonic()
        deadline = self._idle_since + self._stop_seconds
        logger.info("Stopping: %d running tasks have %g s to end", self._workers.busy, self._stop_seconds)
        os.kill(self._pid, signal.SIGTERM)
        while self.exit_status() is None:
            if self._is_pointless(deaf or self._workers.died_free):
                break
            if time.monotonic() > deadline:
                logger.warning("%d tasks still run and are killed; other workers take their jobs", self._workers.busy)
                break
            self._workers.listen(TICK_SECONDS)
        self.kill()

    def _is_pointless(self, deaf: bool) -> bool:
        if self._workers.busy:
            self._idle_since = time.monotonic()
        return deaf and time.monotonic() - self._idle_since > DEAF_SECONDS

    def kill(self) -> None:
        """Kill the main process; the kernel kills what is below it. Wait until all of it is gone."""
        if self.exit_status() is None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._status = -signal.SIGKILL
        deadline = time.monotonic() + GONE_SECONDS
        while not self._workers.all_gone and time.monotonic() < deadline:
            self._workers.listen(0.1)


def _any_ended_child() -> int:
    """Return a child that has ended and waits to be reaped, or 0."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return found.si_pid if found else 0


def _reason(status: int) -> str:
    if status < 0:
        return f"its main process was ended by {signal.Signals(-status).name}"
    return {
        0: "it was told to stop, but not by its supervisor",
        _CANNOT_START: "it could not start; the log has the error",
        _SENTINEL_DIED: "its sentinel died",
    }.get(status, f"exit status {status}")
