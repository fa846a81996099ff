"""Publishing a version once, and keeping link and row consistent.

The row decides which version is published. The link is set just before the row is written, under a lease that was
renewed for it: if the disk refuses, nothing is published, and readers of COMPLETED find the tree. A process that dies
or loses its lease in between leaves a link that is ahead of the row, or, if it had been frozen, one to a version that
is gone. Therefore each process that sets a link aligns it with the row afterwards, and so do the next attempt and the
sweep.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Iterable
from dataclasses import asdict
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

from django.db.models import F
from django.db.models.functions import Now

from coderepos import signals
from coderepos.git.results import CloneReport
from coderepos.models import CodeRepository, Job, JobKind, JobState, LeaseLost, Purge, alias
from coderepos.models.locking import row_transaction
from coderepos.sandbox.sandbox import Sandbox
from coderepos.services.afterwards import announce, failures_logged
from coderepos.services.leases import Lease

ALIGN_TRIES: Final = 3
"""A version may be replaced while its link is set; the process that replaces it aligns the link too."""

SHOWN_PATHS: Final = 20
"""Most paths of substitutions that a repository's row keeps; lists show them."""

logger = logging.getLogger(__name__)


def commit(lease: Lease, report: CloneReport, sandbox: Sandbox) -> None:
    """Publish the version of a lease, and send the signal.

    :raises LeaseLost: the lease is lost, or not known to be held; the row decides which version is published.
    :raises CodeReposError: the disk refused; nothing is published.
    """
    job, version = lease.job, str(lease.job.lease_token)
    lease.renew()
    sandbox.activate(version)
    lease.persist(lambda: _write(lease, report, sandbox))
    with failures_logged("job %s: the link of the published version can't be checked", job.pk):
        align(sandbox, job.repository_id)
    if job.kind == JobKind.RESTORE:
        return
    announce(
        signals.repository_cloned,
        repository_id=job.repository_id,
        project_id=job.repository.project_id,
        job_id=job.pk,
        sandbox_path=str(sandbox.repository_path),
        commit_id=report.build.commit_id,
        version=version,
    )


def _write(lease: Lease, report: CloneReport, sandbox: Sandbox) -> None:
    """Write the outcome in one transaction of statements only."""
    job, build = lease.job, report.build
    try:
        with row_transaction(alias()):
            job.succeed(
                repository_values={
                    "repository_size_mb": size_mb(build.git_bytes + build.tree_bytes),
                    "sandbox_path": str(sandbox.repository_path),
                    "version": str(job.lease_token),
                    "node": job.node,
                    **_content(job, report),
                },
                bytes_received=report.received_bytes,
                isolation_level=report.isolation_level,
                progress={},
                result={**asdict(build), "isolation": report.isolation, "head_branch": report.head_branch},
            )
            if job.kind != JobKind.RESTORE:
                job.repository.record_token_result(accepted=True, expires_at=report.token_expires_at)
            _leave_other_machine(job)
    except LeaseLost:
        # Written by an earlier try, whose answer was lost with its connection?
        if not job.has_ended(JobState.SUCCEEDED):
            raise


def _leave_other_machine(job: Job) -> None:
    """Have the machine that held the version before remove it, where that is another one."""
    repository = job.repository
    if repository.node not in ("", job.node):
        Purge.objects.request(
            repository.pk,
            project_key=str(repository.project_id),
            nodes=[repository.node],
            surplus_bytes={repository.node: size_bytes_of(repository)},
        )


def _content(job: Job, report: CloneReport) -> dict[str, Any]:
    """Return what the row of a repository says of its content; a restored one is what it was."""
    if job.kind == JobKind.RESTORE:
        # Of one that was on no disk, somebody waits for it.
        used = {} if job.repository.version else {"last_used_at": Now()}
        return {"cloned_at": F("cloned_at"), "stored_pack": job.repository.stored_pack, **used}
    build = report.build
    return {
        **({"last_used_at": Now()} if job.kind == JobKind.CLONE else {}),
        "commit_id": build.commit_id,
        "ref_name": report.ref_name,
        "substitutions": build.substitutions,
        "substituted_paths": list(build.substituted_paths[:SHOWN_PATHS]),
    }


def align(sandbox: Sandbox, repository_id: uuid.UUID) -> None:
    """Point the links to the version that the row names, if that is on this disk.

    :raises CodeReposError: the disk refused.
    """
    for _ in range(ALIGN_TRIES):
        version = _published(repository_id)
        is_shown = sandbox.current() == version and sandbox.has_links()
        if not version or is_shown or version not in sandbox.versions():
            return
        logger.warning("sandbox %s: its links are reset to version %s of the row", sandbox.path, version)
        sandbox.activate(version)


def _published(repository_id: uuid.UUID) -> str | None:
    """Return the version that the row names, empty without one; ``None`` if the repository was deleted."""
    rows = CodeRepository.objects.filter(pk=repository_id)
    return rows.values_list("version", flat=True).first()


def withdraw(lease: Lease, sandbox: Sandbox) -> None:
    """Remove what a failed attempt built, but never the version that the row names; failures are logged."""
    job, version = lease.job, str(lease.job.lease_token)
    with failures_logged("job %s: its unfinished version can't be removed now", job.pk):
        sandbox.discard_incoming(version)
    with failures_logged("job %s: the link can't be checked", job.pk):
        align(sandbox, job.repository_id)
    with failures_logged("job %s: its unpublished version can't be removed now", job.pk):
        # In this order: what another process ended can't be published after it was asked what is published.
        has_ended = not job.is_owned()
        published = _published(job.repository_id)
        if published is None:
            sandbox.remove()
        elif version != published:
            (sandbox.retract if has_ended else sandbox.discard)(version)


def discard(sandbox: Sandbox, versions: Iterable[str]) -> None:
    """Remove replaced versions; failures are logged, and the sweep tries again."""
    for version in versions:
        with failures_logged("sandbox %s: version %s can't be removed now", sandbox.path, version):
            sandbox.discard(version)


def size_bytes_of(repository: CodeRepository) -> int:
    """Return what the published version of a repository takes on a disk, as its row says."""
    return math.ceil((repository.repository_size_mb or 0) * 10**6)


def size_mb(size_bytes: int) -> Decimal:
    """Return bytes as MB of 10^6 bytes, rounded up to a tenth."""
    return (Decimal(size_bytes) / 10**6).quantize(Decimal("0.1"), rounding=ROUND_CEILING)
