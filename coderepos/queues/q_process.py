"""A cluster of django-q2 in this process, so that it ends with its supervisor and survives a signal to all at once.

django-q2 has a main process, below it a sentinel, and below that workers, a pusher and a monitor. Left alone, whoever
outlives its parent goes on for ever, and SIGTERM to all of them, as systemd sends it, hangs the main process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import util
from typing import Any, Final

from django_q.cluster import Cluster
from django_q.signals import post_execute_in_worker, post_spawn, pre_execute

from coderepos.git.confinement.linux import die_with_parent
from coderepos.queues.protocol import WorkerState

Report = Callable[[WorkerState], None]

TERMINATED_SECONDS: Final = 3
"""How soon after a SIGTERM to a worker its cluster is told to stop, where the signal was meant for all processes."""

_UID: Final = "coderepos.supervision"


def run_cluster(*, report: Report, is_stopping: Callable[[], bool]) -> bool:
    """Run the cluster until it ends, for whatever reason, and return whether its sentinel ended by itself.

    :param report: called in each worker when its state changes.
    :param is_stopping: whether the cluster was told to stop; asked in any of its processes.
    :raises RuntimeError: it could not start.
    """
    _Lineage().watch()
    _report_workers(report, is_stopping)
    cluster = Cluster()
    cluster.start()
    sentinel: Any = cluster.sentinel
    while sentinel.is_alive():
        sentinel.join(1)
    return bool(sentinel.exitcode == 0)


class _Lineage:
    """Ties each process of the cluster to the one above it; what the tasks of a worker fork is theirs."""

    def __init__(self) -> None:
        self._ancestors = {os.getpid()}
        self._parent = 0

    def watch(self) -> None:
        os.register_at_fork(before=self._before, after_in_child=self._after)

    def _before(self) -> None:
        self._parent = os.getpid()

    def _after(self) -> None:
        if self._parent not in self._ancestors:
            return
        if len(self._ancestors) == 1:
            self._ancestors.add(os.getpid())
            # The sentinel, and by inheritance its pusher and monitor, are told otherwise to end.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        die_with_parent(self._parent)


def _report_workers(report: Report, is_stopping: Callable[[], bool]) -> None:
    def started(**_: Any) -> None:
        # A handler, not a mask: programs that a task starts would inherit that.
        signal.signal(signal.SIGTERM, lambda *_: _end_unless(is_stopping))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        util.Finalize(None, report, args=("ended",), exitpriority=0)
        report("free")

    def begins(**_: Any) -> None:
        report("busy")

    def ends(**_: Any) -> None:
        report("free")

    for sent, receiver in ((post_spawn, started), (pre_execute, begins), (post_execute_in_worker, ends)):
        sent.connect(receiver, weak=False, dispatch_uid=_UID)


def _end_unless(is_stopping: Callable[[], bool]) -> None:
    """End this worker, whom its sentinel gave up, unless the signal turns out to be for all processes of the cluster.

    A worker of a cluster that stops finishes its task. Nothing tells who sent the signal, but all get it at once.
    """

    def wait() -> None:
        deadline = time.monotonic() + TERMINATED_SECONDS
        while not is_stopping():
            if time.monotonic() > deadline:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.05)

    threading.Thread(target=wait, name="coderepos-terminated", daemon=True).start()
