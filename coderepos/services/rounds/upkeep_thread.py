"""Rounds of upkeep: in a thread of every worker process, which never waits behind clones, or in a process of their own.

Rounds touch only the database. A sweep, a purge and a look after the disk may hang, and get a thread of their own each.
Exceptions in any of them are logged and end neither the worker nor the rounds, and none of these threads receives the
signals of the main thread.
"""

from __future__ import annotations

import logging
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import sleep as _sleep
from typing import Final

from django.db import connections

from coderepos.conf import conf
from coderepos.exceptions import CodeReposError
from coderepos.models import Flow, Node
from coderepos.services.afterwards import failures_logged
from coderepos.services.disk import purging, this_machine
from coderepos.services.packs.relocating import relocate
from coderepos.services.packs.storing import run_storage_round
from coderepos.services.repositories import cleaning
from coderepos.services.rounds import expired_leases
from coderepos.services.rounds.disk_round import run_disk_round

ROUND_SECONDS: Final = 10
"""Time between two rounds of upkeep on one machine."""

FIRST_ROUND_SECONDS: Final = 2
"""Age of a worker at its first round: one that dies at its start must not count as alive."""

SWEEP_SECONDS: Final = 3600
"""Time between two sweeps of one machine's sandbox root."""

SWEEP_AT_START_SECONDS: Final = this_machine.SWEEP_AFTER_SECONDS
"""A worker that starts sweeps earlier, since another may have died. What is younger than this would stay anyway."""

END_SECONDS: Final = 600
"""How long a process that does rounds for some time waits in the end for what it began; a disk may hang for ever."""

_SPREAD_SECONDS: Final = 1.5
"""Spread of the moments at which the workers of one machine wake; all but the first find the round done."""

_purging: Final = threading.Lock()

logger = logging.getLogger(__name__)


def start_worker() -> None:
    """Start the upkeep thread of a worker process; returns at once, without touching disk or database.

    The first round comes after :data:`FIRST_ROUND_SECONDS`.
    """
    _start_thread(run_rounds, "upkeep")


def run_round() -> Node | None:
    """Do one round of upkeep, unless another process of this machine has just done it.

    :returns: this machine's row if the round was done.
    """
    node = this_machine.register_node()
    if not node.begin_upkeep(every_seconds=ROUND_SECONDS):
        return None
    expired_leases.reap()
    cleaning.finish_cleaning()
    with failures_logged("Clones that are out of reach are not replaced now"):
        relocate(node)
    return node


def maintain() -> str:
    """Do all upkeep of this machine that is due, sweep and disk included, and return what was done; idempotent."""
    node = run_round()
    done = f"a round of upkeep; disk: {_disk_round()}" if node else "no round, another process did it lately"
    if node and conf.PACK_STORAGE:
        done += f"; storage: {run_storage_round(node)}"
    return f"{done}; {_purge()}; sweep: {sweep_if_due(node or this_machine.register_node())}"


def sweep_if_due(node: Node, *, every_seconds: float = SWEEP_SECONDS) -> str:
    """Sweep this machine's sandbox root, unless a sweep began less than ``every_seconds`` ago."""
    return _sweep() if node.begin_sweep(every_seconds=every_seconds) else "swept lately"


def _sweep() -> str:
    with failures_logged("Flows that nothing waits in can't be forgotten now"):
        Flow.objects.forget_idle()
    try:
        return this_machine.sweep()
    except CodeReposError as error:
        logger.critical("The sandbox root %s can't be swept: %s: %s", conf.SANDBOX_BASE_PATH, error.code, error.message)
        return error.code


def run_rounds(
    *,
    first_after_seconds: float = FIRST_ROUND_SECONDS,
    every_seconds: float = ROUND_SECONDS,
    for_seconds: float = math.inf,
) -> None:
    """Do rounds of upkeep, and sweep when that is due, until ``for_seconds`` are over; an error is logged.

    A round that another process of this machine has done meanwhile is left out. A sweep, a purge or a look after the
    disk that was begun has :data:`END_SECONDS` more to end.
    """
    ends_at = time.monotonic() + for_seconds
    sweep_every_seconds: float = SWEEP_AT_START_SECONDS
    pause_seconds: float = first_after_seconds
    disk_round: threading.Thread | None = None
    begun: list[threading.Thread] = []
    storage_round: threading.Thread | None = None
    while time.monotonic() + pause_seconds < ends_at:
        _sleep(pause_seconds + random.uniform(0, _SPREAD_SECONDS))  # noqa: S311  no secret
        pause_seconds = every_seconds
        with _errors_logged():
            if node := run_round():
                if purging.is_needed(node):
                    begun.append(_start_thread(_run_purge, "purge"))
                if node.begin_sweep(every_seconds=sweep_every_seconds):
                    begun.append(_start_thread(_run_sweep, "sweep"))
                sweep_every_seconds = SWEEP_SECONDS
                # One that hangs on the disk is not joined by others of this process.
                if disk_round is None or not disk_round.is_alive():
                    disk_round = _start_thread(_run_disk_round, "disk")
                    begun.append(disk_round)
                if conf.PACK_STORAGE and (storage_round is None or not storage_round.is_alive()):
                    storage_round = _start_thread(_run_storage_round, "storing")
                    begun.append(storage_round)
                begun = [thread for thread in begun if thread.is_alive()]
            else:
                # Wake when the next round is due: the process that did the last one may be dead by then.
                age_seconds = this_machine.register_node().upkeep_age_seconds()
                pause_seconds = max(0.0, every_seconds - age_seconds)
    last = time.monotonic() + END_SECONDS
    for thread in begun:
        thread.join(max(0.0, last - time.monotonic()))


def _purge() -> str:
    """Purge what is requested of this machine, unless this process is at it; it may hang on a disk."""
    if not _purging.acquire(blocking=False):
        return "purge: still at it"
    try:
        done = purging.purge(this_machine.register_node())
        cleaning.finish_cleaning()
    except CodeReposError as error:
        logger.critical("The sandbox root %s can't be purged: %s", conf.SANDBOX_BASE_PATH, error.code)
        return error.code
    finally:
        _purging.release()
    return done


def _run_purge() -> None:
    with _errors_logged():
        logger.info("purge: %s", _purge())


def _run_sweep() -> None:
    with _errors_logged():
        logger.info("sweep: %s", _sweep())


def _run_disk_round() -> None:
    with _errors_logged():
        logger.debug("disk: %s", _disk_round())


def _disk_round() -> str:
    try:
        return run_disk_round(this_machine.register_node())
    except CodeReposError as error:
        logger.warning("The room on the disk of %s was not checked: %s", conf.SANDBOX_BASE_PATH, error.message)
        return error.code


def _run_storage_round() -> None:
    with _errors_logged():
        logger.debug("storage: %s", run_storage_round(this_machine.register_node()))


@contextmanager
def _errors_logged() -> Iterator[None]:
    """Log an exception of a ``with`` block, and close the connections of this thread."""
    try:
        yield
    except Exception:
        logger.exception("Upkeep failed; the next round tries again")
    finally:
        connections.close_all()


def _start_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread that ends with the process and gets none of its signals, and return it.

    The thread blocks them itself: a handler that raises while the caller blocked them would leave the caller deaf.
    """
    blocked = threading.Event()

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        blocked.set()
        target()

    thread = threading.Thread(target=run, name=f"coderepos-{name}", daemon=True)
    thread.start()
    blocked.wait()
    return thread
