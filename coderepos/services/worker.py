"""What the workers of the queue call; hosts call :mod:`coderepos.services`."""

from __future__ import annotations

from coderepos.services.cloning import run_clone
from coderepos.services.disk.this_machine import register_node, sweep
from coderepos.services.rounds.disk_round import run_disk_round
from coderepos.services.rounds.expired_leases import reap
from coderepos.services.rounds.upkeep_thread import maintain, run_rounds, start_worker, sweep_if_due

__all__ = [
    "maintain",
    "reap",
    "register_node",
    "run_clone",
    "run_disk_round",
    "run_rounds",
    "start_worker",
    "sweep",
    "sweep_if_due",
]
