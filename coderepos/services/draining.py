"""Taking a machine out of service without losing what only it has."""

from __future__ import annotations

from dataclasses import dataclass

from coderepos.models import CloneStatus, CodeRepository, Job, JobState, Node, NodeState, Purge
from coderepos.models.disk import disk_names
from coderepos.models.stored_pack import unstored


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


def remainder_of(node: Node) -> Remainder:
    """Return what keeps a machine from being switched off."""
    names = disk_names(node)
    return Remainder(
        running=Job.objects.filter(node__in=names, state=JobState.RUNNING).count(),
        unstored=unstored().filter(node__in=names).count(),
        published=CodeRepository.objects.filter(node__in=names, clone_status=CloneStatus.COMPLETED).count(),
        purges=Purge.objects.filter(node__in=names).count(),
    )
