"""Gives repositories whose clone is out of reach another one, on any machine that is up: restored, else cloned anew.

Their clone is on a machine that is lost, or is missing from the disk of its own. A lost machine may have had thousands:
their jobs are made a few at a time, and share one flow of little weight, so that they wait for everybody else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import Final

from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from coderepos import queues
from coderepos.conf import conf
from coderepos.exceptions import SandboxMissing, StorageUnavailable
from coderepos.limits import Limits
from coderepos.models import CloneStatus, CodeRepository, Job, JobKind, Node, PackState, StoredPack, alias
from coderepos.models.locking import RowHeld, row_transaction
from coderepos.services import turns
from coderepos.services.afterwards import failures_logged

AT_ONCE: Final = 20
"""Most jobs that are open at once to replace clones that are out of reach."""

LIMITS: Final = Limits(flow="clones that are out of reach", weight=0.1)
"""Whose turn these jobs take; no project has a key with spaces."""

logger = logging.getLogger(__name__)


def relocate(node: Node) -> int:
    """Queue jobs for clones that are out of reach, where there is ``PACK_STORAGE``, and return how many.

    :param node: the machine that looks, which is never lost itself; one that has no sandbox root yet finds nothing.
    """
    # A machine that comes back under another name has its clones again once it has seen its disk.
    if not conf.PACK_STORAGE or not node.marked_roots:
        return 0
    free = AT_ONCE - Job.objects.unfinished().filter(flow=LIMITS.flow).count()
    queued = 0
    for repository in _out_of_reach(lost_nodes(node), at_most=free):
        with failures_logged("repository %s: no job can be queued for its clone", repository.pk):
            queued += _relocate(repository)
    return queued


def lost_nodes(node: Node) -> list[str]:
    """Return the names of machines that have been silent for ``NODE_LOST_MINUTES``."""
    lost = Node.objects.lost(after_seconds=conf.NODE_LOST_MINUTES * 60).exclude(root_id=node.root_id)
    return list(lost.order_by("name").values_list("name", flat=True))


def _out_of_reach(lost: Iterable[str], *, at_most: int) -> Iterable[CodeRepository]:
    """Yield those that were used last first."""
    if at_most <= 0:
        return
    found = 0
    for rows in (_on_lost_nodes(lost), _missing()):
        for repository in rows.order_by(F("last_used_at").desc(nulls_last=True), "pk")[: at_most - found]:
            found += 1
            yield repository


def _on_lost_nodes(lost: Iterable[str]) -> QuerySet[CodeRepository]:
    return _idle().filter(node__in=[*lost], clone_status=CloneStatus.COMPLETED)


def _missing() -> QuerySet[CodeRepository]:
    """Return those that are stored and whose clone is not on the disk, a restore that storage refused included."""
    codes = (SandboxMissing.code, StorageUnavailable.code)
    stored = StoredPack.objects.filter(pk=OuterRef("stored_pack"), state=PackState.STORED)
    return _idle().filter(Exists(stored), clone_status=CloneStatus.FAILED, error_code__in=codes)


def _idle() -> QuerySet[CodeRepository]:
    unfinished = Job.objects.unfinished().filter(repository=OuterRef("pk"))
    return CodeRepository.objects.without_token().exclude(Exists(unfinished))


def _relocate(repository: CodeRepository) -> bool:
    kind = JobKind.RESTORE if _is_stored(repository) else JobKind.CLONE
    try:
        with row_transaction(alias()):
            if repository.clone_status == CloneStatus.FAILED:
                begun = repository.restart()
            else:
                begun = repository.displace(version=repository.version, node=repository.node)
            if not begun:
                return False
            job = Job.objects.create(
                repository=repository, kind=kind, flow=LIMITS.flow, max_attempts=1 + conf.CLONE_MAX_RETRIES
            )
            turns.join(job, LIMITS)
            transaction.on_commit(partial(queues.enqueue, job), using=alias(), robust=True)
    except (IntegrityError, RowHeld):
        return False
    logger.warning("repository %s: its clone on %s is out of reach; %s is queued", repository.pk, repository.node, kind)
    return True


def _is_stored(repository: CodeRepository) -> bool:
    return StoredPack.objects.filter(Q(pk=repository.stored_pack), state=PackState.STORED).exists()
