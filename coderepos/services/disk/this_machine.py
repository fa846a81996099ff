"""Upkeep of this machine: its row, its sandbox root, and what is left behind in it.

What happens to jobs whose lease expires is in :mod:`~coderepos.services.rounds.expired_leases`.
"""

from __future__ import annotations

import logging
import uuid
from typing import Final

from coderepos import engine
from coderepos.conf import conf
from coderepos.exceptions import SandboxRefused, SandboxRootMissing
from coderepos.models import Node
from coderepos.sandbox.mounts import mount_point_of
from coderepos.sandbox.root import SandboxRoot
from coderepos.services.disk.sweeping import sweep_root

SWEEP_AFTER_SECONDS: Final = 15 * 60
logger = logging.getLogger(__name__)


def register_node() -> Node:
    """Return this machine's row; a new one counts as alive only after its workers have finished a round of upkeep."""
    node, _ = Node.objects.get_or_create(name=conf.node_id, defaults={"last_seen": None})
    return node


def prepare_root(node: Node) -> SandboxRoot:
    """Return this machine's sandbox root, checked and marked.

    A machine that changed its name keeps a root whose marker belongs to another row of this database.

    :raises SandboxRefused: it is not safe, or belongs to another installation; nothing was touched.
    :raises SandboxRootMissing: it was marked before, or had a disk of its own on another machine, and its marker is
        gone.
    """
    path = engine.sandbox_root().path
    return _marked_root(node, may_be_new=node.may_mark(str(path), mount_point=mount_point_of(path)))


def adopt_root() -> SandboxRoot:
    """Mark this machine's sandbox root anew, which the operator moved or emptied on purpose.

    The next sweep reports clones that are not in it any more.

    :raises SandboxRefused: it is not safe, or belongs to another installation; nothing was touched.
    """
    return _marked_root(register_node(), may_be_new=True)


def _marked_root(node: Node, *, may_be_new: bool) -> SandboxRoot:
    root = engine.sandbox_root()
    marker = _uuid(root.read_marker())
    other = Node.objects.filter(root_id=marker).first() if marker not in (None, node.root_id) else None
    if other is not None:
        _require_rootless(node, other)
        Node.objects.filter(pk=node.pk).update(root_id=marker)
        node.refresh_from_db()
    try:
        root.prepare(str(node.root_id), may_be_new=may_be_new)
    except SandboxRootMissing:
        logger.critical(
            "sandbox root %s: it was in use before, and its marker is gone. Mount its disk again; or, where "
            "it was moved or emptied on purpose, run manage.py coderepos_adopt_root as the user of the workers",
            root.path,
        )
        raise
    node.record_root(str(root.path), mount_point=mount_point_of(root.path))
    return root


def _require_rootless(node: Node, other: Node) -> None:
    """Refuse the root of another machine to one that has a root: two of them under one name would sweep each other's.

    :raises SandboxRefused: the machine has marked a root of its own.
    """
    if node.marked_roots:
        raise SandboxRefused(
            f"The sandbox root is that of the machine {other.name}, and {node.name} has one of its own: two machines "
            "may have the same NODE_ID, or a disk was moved; the operator has to set NODE_ID to that of the root."
        )


def sweep() -> str:
    """Compare this machine's sandbox root with the database: remove what has no row, report what is missing.

    Links that do not point to the version of the row are reset. A sandbox that fails is logged, and the sweep goes on.

    :raises SandboxRefused: the root belongs to another installation; nothing was touched.
    :raises SandboxRootMissing: its disk is not mounted.
    """
    node = register_node()
    return sweep_root(prepare_root(node), node, older_than_seconds=SWEEP_AFTER_SECONDS)


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text or "")
    except ValueError:
        return None
