"""The round that looks after the disk of this machine: it is measured, what may go goes, and who waits gets the room.

It touches the disk, which may hang, so it never runs in the upkeep thread.
"""

from __future__ import annotations

from typing import Final

from coderepos.models import Node
from coderepos.models import disk as rows
from coderepos.sandbox.space import space_of
from coderepos.services.disk.admission import space_columns
from coderepos.services.disk.this_machine import prepare_root
from coderepos.services.rounds.retaining import make_room, remove_expired

RULES_SECONDS: Final = 3600
"""Time between two applications of the rules by which clones of one machine expire."""


def run_disk_round(node: Node) -> str:
    """Measure the disk, remove what may go, wake jobs that fit, and return what was done, in one line.

    :raises CodeReposError: the sandbox root can't be used.
    """
    root = prepare_root(node)
    columns = space_columns(space_of(root.path))
    names = rows.disk_names(node)
    Node.objects.filter(pk=node.pk).update(**columns, disk_used_bytes=rows.used_bytes(names))
    room = rows.room_of(names, columns)
    # Before any function of the host's is called, which may take its time.
    woken = rows.wake_waiting(room)
    evicted = make_room(names, room)
    expired = remove_expired(names) if node.begin_retention(every_seconds=RULES_SECONDS) else 0
    return f"{expired} expired, {evicted} evicted, {woken} woken"
