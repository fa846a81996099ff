"""Purging: machines bring single sandboxes to what the database says, within one round of upkeep.

Who cancels, cleans or deletes does not touch a disk: it is often another machine's or another user's, and may be away.
A request is a row for every machine that may hold bytes of the repository, written in the transaction of the change; it
ends when that machine has looked and nothing was left. The sweep, which looks at all sandboxes, is the net below.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.db.models import Q
from django.db.models.functions import Now

from coderepos import engine
from coderepos.conf import ConfigurationError
from coderepos.exceptions import CodeReposError, SandboxRefused
from coderepos.models import CodeRepository, Job, JobState, Node, Purge, alias
from coderepos.models.purge import SETTLE_SECONDS, PurgeQuerySet
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import Sandbox
from coderepos.services.disk.publication import align, size_bytes_of
from coderepos.services.disk.this_machine import prepare_root

BATCH: Final = 500
"""Most sandboxes that one round purges."""

logger = logging.getLogger(__name__)


def request_purge(repository: CodeRepository, *, using: str | None = None) -> None:
    """Have every machine that may hold bytes of a repository remove what is not published, inside a transaction.

    :param using: alias of the database in which the transaction is.
    """
    using = using or alias()
    jobs = Job.objects.using(using).filter(repository_id=repository.pk)
    running = Q(state=JobState.RUNNING)
    unnoticed = Q(
        state=JobState.CANCELLED,
        lease_token__isnull=False,
        heartbeat_at__gt=Now() - timedelta(seconds=SETTLE_SECONDS),
    )
    Purge.objects.using(using).request(
        repository.pk,
        project_key=str(repository.project_id),
        nodes={repository.node, *jobs.order_by().values_list("node", flat=True).distinct()},
        sizes_bytes={repository.node: size_bytes_of(repository)},
        is_worked_on=jobs.filter(running | unnoticed).exists(),
    )


def settle(job: Job) -> None:
    """Record that the worker of a job that was cancelled or deleted has noticed, and writes nothing any more.

    One whose job went on with another worker settles nothing: that one may have to notice too.
    """
    cancelled = Job.objects.filter(pk=job.pk, state=JobState.CANCELLED, lease_token=job.lease_token)
    if cancelled.update(lease_token=None) or not Job.objects.filter(pk=job.pk).exists():
        Purge.objects.filter(repository_id=job.repository_id, node=job.node).update(settles_at=Now())


def is_needed(node: Node) -> bool:
    """Return whether this machine has something to purge."""
    return _requests_of(node).exists()


def silent_machines(repository: CodeRepository) -> tuple[str, ...]:
    """Return the names of machines that have yet to purge a repository, and were not seen at work lately."""
    requests = Purge.objects.filter(repository_id=repository.pk).exclude(node__in=Node.objects.alive().values("name"))
    return tuple(requests.order_by("node").values_list("node", flat=True))


def purge(node: Node) -> str:
    """Purge what is requested of this machine, and return what was done; one that fails is logged and tried again.

    :raises CodeReposError: the sandbox root is not mounted, or not this machine's; nothing was confirmed.
    """
    requests = list(_requests_of(node)[:BATCH])
    if not requests:
        return "nothing to purge"
    root = prepare_root(node)
    confirmed = sum(_purge_one(request, root) for request in requests)
    return f"{confirmed} of {len(requests)} purged"


def _requests_of(node: Node) -> PurgeQuerySet:
    """Return what is requested of this machine, by all of its names: one that changed its name still owns its root."""
    return Purge.objects.on_nodes(Node.objects.filter(root_id=node.root_id).values("name"))


def _purge_one(request: Purge, root: SandboxRoot) -> bool:
    """Do one request, and return whether it is confirmed for good."""
    Purge.objects.filter(pk=request.pk).update(tried_at=Now())
    try:
        if not _is_clear(request, root):
            return False
    except CodeReposError as error:
        logger.warning("repository %s: not purged now: %s", request.repository_id, error.message)
        return False
    except Exception:
        logger.exception("repository %s: not purged now", request.repository_id)
        return False
    settled = Purge.objects.filter(pk=request.pk, request_id=request.request_id, settles_at__lte=Now())
    return bool(settled.delete()[0])


def _is_clear(request: Purge, root: SandboxRoot) -> bool:
    """Remove what the database does not know of a sandbox, and return whether all of it is gone."""
    try:
        sandbox = Sandbox(root, engine.project_key(request.project_key), str(request.repository_id))
    except (ConfigurationError, SandboxRefused):
        return True  # no sandbox can have such a name
    # In this order: what is found and neither published nor built a moment later can never be published.
    found = sandbox.tokens()
    known = _known(request.repository_id)
    if known is None:
        sandbox.remove()
        return True
    if not known.building:
        # A worker that died before its commit left the link ahead of the row.
        align(sandbox, request.repository_id)
    extra = found - known.building - {known.version}
    for token in extra:
        sandbox.retract(token)
    if not known.building:
        sandbox.remove_empty()
    return sandbox.tokens().isdisjoint(extra)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """What the database has of one repository."""

    version: str
    building: frozenset[str]
    """Lease tokens of running jobs."""


def _known(repository_id: uuid.UUID) -> _Known | None:
    """Return what is published and what is being built of a repository; ``None`` if it was deleted, which is for good.

    Jobs are read first: what one of them publishes between both queries is in the second result.
    """
    running = Job.objects.filter(repository_id=repository_id, state=JobState.RUNNING)
    building = frozenset(str(token) for token in running.values_list("lease_token", flat=True))
    version = CodeRepository.objects.filter(pk=repository_id).values_list("version", flat=True).first()
    return None if version is None else _Known(version=version, building=building)
