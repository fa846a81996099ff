"""Taking a machine out of service without losing what only it has."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from coderepos.exceptions import InvalidState
from coderepos.models import CloneStatus, CodeRepository, Job, JobState, Node, NodeState, Purge
from coderepos.models.disk import disk_names
from coderepos.models.node import ALIVE_SECONDS
from coderepos.models.stored_pack import unstored

BATCH: Final = 500
"""Clones that are read at once."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Remainder:
    """What a machine still has to do before it can be switched off."""

    running: int
    """Jobs that its workers run."""

    unstored: int
    """Published versions that are on its disk alone."""

    published: int
    """All published versions on its disk."""

    purges: int
    """Repositories of which it has yet to remove what it holds: no other machine can, and cleaning waits for it."""


def set_draining(node: Node, *, draining: bool) -> None:
    """Let the workers of a machine claim no job any more, or claim jobs again; what runs goes on."""
    node.set_state(NodeState.DRAINING if draining else NodeState.UP)


def give_up(node: Node) -> int:
    """Treat a machine as one that never comes back: others take over what it had, and nobody waits for it any more.

    A clone that only it had is missing from now on: it is restored where it is stored, else it may be cloned again.
    What was to be removed from its disk counts as removed, and its row goes.

    :returns: how many of its clones are being replaced at this moment; its row stays while there is one.
    :raises InvalidState: it is at work, or its disk is that of another machine.
    """
    if Node.objects.alive().filter(pk=node.pk).exists():
        raise InvalidState(f"{node.name} is at work: it was seen within the last {ALIVE_SECONDS} seconds.")
    others = [name for name in disk_names(node) if name != node.name]
    if others:
        raise InvalidState(f"The disk of {node.name} is that of {' and '.join(others)}, which has what was on it.")
    here = CodeRepository.objects.without_token().filter(node=node.name, clone_status=CloneStatus.COMPLETED)
    for repository in here.iterator(chunk_size=BATCH):
        if repository.mark_sandbox_missing(version=repository.version):
            logger.warning("repository %s: its clone is gone with %s", repository.pk, node.name)
    if left := here.count():
        return left
    Purge.objects.filter(node=node.name).delete()
    Node.objects.filter(pk=node.pk).exclude(pk__in=Node.objects.alive().values("pk")).delete()
    logger.warning("%s is given up", node.name)
    return 0


def remainder_of(node: Node) -> Remainder:
    """Return what keeps a machine from being switched off."""
    names = disk_names(node)
    return Remainder(
        running=Job.objects.filter(node__in=names, state=JobState.RUNNING).count(),
        unstored=unstored().filter(node__in=names).count(),
        published=CodeRepository.objects.filter(node__in=names, clone_status=CloneStatus.COMPLETED).count(),
        purges=Purge.objects.filter(node__in=names).count(),
    )
