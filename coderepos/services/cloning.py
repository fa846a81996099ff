"""One attempt of a clone job: claim, run the children, publish once, record the outcome."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from coderepos import engine, queues
from coderepos.crypto.secret import Secret
from coderepos.exceptions import CloneTimeout, CodeReposError, CryptoError, InternalError, StoreDamaged, WaitingForDisk
from coderepos.git.clone import clone
from coderepos.git.limits import Limits
from coderepos.git.results import CloneReport
from coderepos.models import AuditEntry, AuditEvent, JobKind, LeaseLost, Node
from coderepos.sandbox.root import SandboxRoot
from coderepos.sandbox.sandbox import Sandbox
from coderepos.services import leases, turns
from coderepos.services.afterwards import failures_logged
from coderepos.services.disk import admission, publication, purging
from coderepos.services.disk.this_machine import prepare_root, register_node
from coderepos.services.leases import Heartbeat, Lease
from coderepos.services.packs import restoring
from coderepos.services.retries import give_back, record_failure
from coderepos.services.trail import audit_failure

logger = logging.getLogger(__name__)


def run_clone(*, job_id: uuid.UUID) -> str:
    """Claim the job whose turn it is, and run one attempt.

    The notification may name another one: it is the right to run one job, and order is fair among projects.

    Every outcome is written to the job, that of unexpected exceptions and of the queue's time-out included. A worker
    that is interrupted gives the job back.

    :returns: the outcome: ``succeeded``, ``retry_scheduled``, ``waiting_for_disk``, ``failed``, ``lost`` or
        ``unclaimed``.
    """
    node = leases.retry_for(leases.CLAIM_SECONDS, register_node)
    if not leases.retry_for(leases.CLAIM_SECONDS, node.may_claim):
        return "unclaimed"
    lease = leases.claim(job_id, node=node.name)
    if lease is None:
        return "unclaimed"
    with turns.charged(lease.job):
        return _run(lease, node)


def _run(lease: Lease, node: Node) -> str:
    job = lease.job
    logger.info("job %s: attempt %s of %s", job.pk, job.attempt, job.max_attempts)
    try:
        _attempt(lease)
    except LeaseLost:
        logger.warning("job %s: it was cancelled, or the lease was lost; the attempt is discarded", job.pk)
        with failures_logged("job %s: that its worker has noticed was not recorded", job.pk):
            purging.settle(job)
        return "lost"
    except WaitingForDisk as error:
        return admission.put_back(lease, error)
    except StoreDamaged as error:
        return _clone_instead(lease, error)
    except CodeReposError as error:
        admission.note_failure(node, error)
        return record_failure(lease, error)
    except BaseException as error:
        if queues.is_timeout(error):
            record_failure(lease, CloneTimeout())
            raise
        if not isinstance(error, Exception):
            give_back(lease)
            raise
        logger.exception("job %s: unexpected failure", job.pk)
        return record_failure(lease, InternalError())
    return "succeeded"


def _clone_instead(lease: Lease, error: StoreDamaged) -> str:
    try:
        restoring.clone_instead(lease)
    except LeaseLost:
        return "lost"
    return record_failure(lease, error)


def _attempt(lease: Lease) -> None:
    job = lease.job
    repository, version = job.repository, str(job.lease_token)
    node = lease.persist(register_node)
    root = lease.persist(lambda: prepare_root(node))
    limits = admission.admit(lease, node, root)
    sandbox = engine.sandbox_of(repository)
    is_restore = job.kind == JobKind.RESTORE
    make = _restorer(lease, limits, root, sandbox) if is_restore else _cloner(lease, limits)
    left_behind = _left_behind(lease, sandbox)
    incoming = sandbox.create_incoming(version)
    try:
        with admission.outgrown_reported(lease, limits, root):
            report = make(incoming)
        lease.check()
        sandbox.finish_incoming(version)
        _commit(lease, report, sandbox)
    except BaseException:
        publication.withdraw(lease, sandbox)
        raise
    publication.discard(sandbox, {repository.version, *left_behind} - {"", version})


def _cloner(lease: Lease, limits: Limits) -> Callable[[Path], CloneReport]:
    """Open the token, and return what clones from the Git host.

    :raises LeaseLost: the lease is no longer safe.
    :raises CryptoError: the token can't be opened.
    """
    token = _open_token(lease)
    request = replace(engine.clone_request(lease.job.repository, token), limits=limits)

    def make(incoming: Path) -> CloneReport:
        with engine.remote_text_redacted():
            return clone(request, incoming=incoming, on_progress=Heartbeat(lease).on_progress)

    return make


def _restorer(lease: Lease, limits: Limits, root: SandboxRoot, sandbox: Sandbox) -> Callable[[Path], CloneReport]:
    """Return what restores from the storage for packs."""
    version = str(lease.job.lease_token)

    def empty() -> None:
        sandbox.discard_incoming(version)
        sandbox.create_incoming(version)

    def make(incoming: Path) -> CloneReport:
        destination = restoring.Destination(root=root, incoming=incoming, empty=empty)
        return restoring.restore(lease, limits, destination, on_progress=Heartbeat(lease).on_progress)

    return make


def _left_behind(lease: Lease, sandbox: Sandbox) -> set[str]:
    """Remove what earlier attempts were building in a sandbox, and return the tokens of what they left there.

    A worker that still holds the lease after listing them knows that none of them can be published any more; one that
    was frozen in between finds its lease gone, and touches nothing of its successor's.

    :raises LeaseLost: the lease is no longer ours.
    """
    found = sandbox.tokens()
    lease.renew()
    with failures_logged("job %s: the link can't be checked", lease.job.pk):
        publication.align(sandbox, lease.job.repository_id)
    left_behind = found - {lease.job.repository.version}
    for left in left_behind:
        with failures_logged("job %s: the unfinished version %s can't be removed now", lease.job.pk, left):
            sandbox.discard_incoming(left)
    return left_behind


def _commit(lease: Lease, report: CloneReport, sandbox: Sandbox) -> None:
    publication.commit(lease, report, sandbox)


def _open_token(lease: Lease) -> Secret:
    """Open the token, and record that or the failure to do so in the audit trail.

    :raises LeaseLost: the lease is no longer safe, so the token must not be opened.
    """
    job = lease.job
    details: dict[str, Any] = {"attempt": job.attempt, "node": job.node, "kid": job.repository.token_kid}
    lease.check()
    try:
        token: Secret = job.repository.token_ciphertext.secret()
    except CryptoError as error:
        audit_failure(AuditEvent.DECRYPT_FAILED, error, repository=job.repository, job_id=job.pk, details=details)
        raise
    if not token:
        return token
    # A token that can't be audited is not used.
    lease.persist(
        lambda: AuditEntry.objects.record(
            AuditEvent.TOKEN_OPENED, repository=job.repository, job_id=job.pk, details=details
        )
    )
    return token
