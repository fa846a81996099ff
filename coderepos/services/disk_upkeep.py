"""The round that looks after the disk of this machine: it is measured, and who waits for room gets what there is.

It touches the disk, which may hang, so it never runs in the upkeep thread.
"""

from __future__ import annotations

import logging

from coderepos.models import Node
from coderepos.models import disk as rows
from coderepos.sandbox.space import space_of
from coderepos.services.admission import space_columns
from coderepos.services.upkeep import prepare_root

logger = logging.getLogger(__name__)


def run_disk_round(node: Node) -> str:
    """Measure the disk, wake jobs that fit on it, and return what was done, in one line.

    :raises CodeReposError: the sandbox root can't be used.
    """
    root = prepare_root(node)
    columns = space_columns(space_of(root.path))
    names = rows.disk_names(node)
    Node.objects.filter(pk=node.pk).update(**columns, disk_used_bytes=rows.used_bytes(names))
    woken = rows.wake_waiting(rows.room_of(names, columns))
    return f"{woken} woken"
