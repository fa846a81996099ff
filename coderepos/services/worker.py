"""What the workers of the queue call; hosts call :mod:`coderepos.services`."""

from __future__ import annotations

from coderepos.services.cloning import run_clone
from coderepos.services.maintenance import start_worker, sweep_if_due
from coderepos.services.upkeep import reap, register_node, sweep

__all__ = ["reap", "register_node", "run_clone", "start_worker", "sweep", "sweep_if_due"]
