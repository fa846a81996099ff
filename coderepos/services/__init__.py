"""The use cases that the API, the admin, the commands and the workers call."""

from __future__ import annotations

from coderepos.services.changing import change_repository
from coderepos.services.cloning import run_clone
from coderepos.services.connecting import Connection, clone_again, connect_repository
from coderepos.services.disconnecting import disconnecting_as, record_disconnection
from coderepos.services.maintenance import start_worker, sweep_if_due
from coderepos.services.status import Status, status_of
from coderepos.services.tokens import replace_token
from coderepos.services.trail import require
from coderepos.services.uninstalling import other_nodes, remove_sandboxes, remove_traces
from coderepos.services.upkeep import adopt_root, reap, register_node, sweep

__all__ = [
    "Connection",
    "Status",
    "adopt_root",
    "change_repository",
    "clone_again",
    "connect_repository",
    "disconnecting_as",
    "other_nodes",
    "reap",
    "record_disconnection",
    "register_node",
    "remove_sandboxes",
    "remove_traces",
    "replace_token",
    "require",
    "run_clone",
    "start_worker",
    "status_of",
    "sweep",
    "sweep_if_due",
]
