"""One attempt of a clone job: claim, run the children, publish once, and say honestly how it ended."""

from __future__ import annotations

import logging
import time
import uuid
from functools import partial
from itertools import chain
from typing import Any, Final

from django.db import transaction

from coderepos import queue, signals
from coderepos.crypto.secret import Secret
from coderepos.exceptions import AskedToWait, CloneTimeout, CodeReposError, CryptoError, InternalError, RemoteAuthFailed
from coderepos.git.pipeline import clone
from coderepos.git.reports import CloneReport, Progress
from coderepos.git.sandbox import Sandbox
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Job, LeaseLost, Node
from coderepos.services import engine
from coderepos.services.connecting import size_mb
from coderepos.services.trail import failure
from coderepos.services.upkeep import prepare_root, register_node

RENEW_SECONDS: Final = 10
PROGRESS_SECONDS: Final = 1
OTHER_CANDIDATES: Final = 10
"""How many of the oldest due jobs are tried by a worker whose own job is taken; others may be after the same ones."""

logger = logging.getLogger(__name__)


def run_clone(*, job_id: uuid.UUID) -> str:
    """Claim a job, or the oldest one that is due where somebody else has it, and carry out one attempt.

    Returns what became of it, in one word.
    Whatever happens is written to the job: also an exception that is none of ours, and the time-out of the queue,
    which is a ``SystemExit``.
    """
    node = register_node()
    job = _claim(job_id, node)
    if job is None:
        return "unclaimed"
    logger.info("job %s: attempt %s of %s", job.pk, job.attempt, job.max_attempts)
    try:
        _attempt(job, node)
    except LeaseLost:
        logger.warning("job %s: the lease was lost, the attempt is discarded", job.pk)
        return "lost"
    except CodeReposError as error:
        return _settle(job, error)
    except Exception:
        logger.exception("job %s: unexpected failure", job.pk)
        return _settle(job, InternalError())
    except BaseException:
        _settle(job, CloneTimeout())
        raise
    return "succeeded"


def _claim(job_id: uuid.UUID, node: Node) -> Job | None:
    """Claim the job that a notification names, or another that is due: its own notification may be lost."""
    due = Job.objects.on_primary().oldest_due().values_list("pk", flat=True)
    for candidate in chain((job_id,), due[:OTHER_CANDIDATES].iterator()):
        if job := Job.objects.claim(candidate, node=node.name):
            return job
    return None


def _attempt(job: Job, node: Node) -> None:
    repository = job.repository
    version = str(job.lease_token)
    token = _open_token(job)
    prepare_root(node)
    sandbox = engine.sandbox_of(repository)
    left_behind = _left_behind(job, sandbox)
    for left in left_behind:
        sandbox.discard_incoming(left)
    incoming = sandbox.incoming(version)
    try:
        with engine.remote_text_redacted():
            report = clone(
                engine.clone_request(repository, token), incoming=incoming, on_progress=_Heartbeat(job).on_progress
            )
        repository.note_token(accepted=True, expires_at=report.token_expires_at)
        sandbox.publish(version)
        _commit(job, report, sandbox)
    finally:
        sandbox.discard_incoming(version)
    _discard(sandbox, {repository.version, *left_behind} - {"", version})


def _left_behind(job: Job, sandbox: Sandbox) -> set[str]:
    """Return the tokens of what earlier attempts left in a sandbox.

    Whoever holds the lease after the look knows that nobody can publish any of that any more; a worker that was frozen
    in between finds its lease gone, and touches nothing of its successor's.

    :raises LeaseLost: the lease is no longer ours.
    """
    found = sandbox.tokens()
    job.renew(progress=job.progress, bytes_received=job.bytes_received)
    return found - {job.repository.version}


def _discard(sandbox: Sandbox, versions: set[str]) -> None:
    """Remove versions that are replaced; what can't be removed now is left to the sweep."""
    for version in versions:
        try:
            sandbox.discard(version)
        except CodeReposError as error:
            logger.warning("sandbox %s: version %s stays for now: %s", sandbox.path, version, error.message)


def _open_token(job: Job) -> Secret:
    """Return the token, and leave a trace of it or of the failure to open it."""
    details: dict[str, Any] = {"attempt": job.attempt, "node": job.node, "kid": job.repository.token_kid}
    try:
        token: Secret = job.repository.token_ciphertext.secret()
    except CryptoError as error:
        _record(job, AuditEvent.DECRYPT_FAILED, {**details, **failure(error)})
        raise
    _record(job, AuditEvent.TOKEN_OPENED, details)
    return token


def _record(job: Job, event: AuditEvent, details: dict[str, Any]) -> None:
    AuditEntry.objects.record(event, repository=job.repository, job_id=job.pk, details=details)


def _commit(job: Job, report: CloneReport, sandbox: Sandbox) -> None:
    """Make a version the visible one; a loser of the conditional UPDATE never touches the link.

    Where the database fails in the middle of COMMIT nobody knows who won, so the version is left to the sweep.
    """
    version = str(job.lease_token)
    build = report.build
    try:
        with transaction.atomic():
            job.succeed(
                repository_values={
                    "repository_size_mb": size_mb(build.git_bytes + build.tree_bytes),
                    "sandbox_path": str(sandbox.repository_path),
                    "version": version,
                    "node": job.node,
                    "commit_id": build.commit_id,
                    "ref_name": report.ref_name,
                },
                bytes_received=report.received_bytes,
                isolation_level=report.isolation_level,
                progress={},
                result={**build.to_json(), "isolation": report.isolation, "head_branch": report.head_branch},
            )
            sandbox.flip(version)
            transaction.on_commit(
                partial(
                    signals.repository_cloned.send_robust,
                    sender=CodeRepository,
                    repository_id=job.repository_id,
                    job_id=job.pk,
                    sandbox_path=str(sandbox.repository_path),
                )
            )
    except (LeaseLost, OSError, CodeReposError):
        sandbox.discard(version)
        raise


def _settle(job: Job, error: CodeReposError) -> str:
    """Write the failure of an attempt: another one later, or the end."""
    values = {"error_code": error.code, "error_message": error.message}
    logger.warning("job %s: attempt %s failed: %s: %s", job.pk, job.attempt, error.code, error.message)
    if isinstance(error, RemoteAuthFailed):
        job.repository.note_token(accepted=False)
        _record(job, AuditEvent.REFUSED, {"attempt": job.attempt, **failure(error)})
    if error.retryable and job.attempts_left:
        at_least_seconds = error.retry_after_seconds if isinstance(error, AskedToWait) else 0
        if job.postpone(**values, at_least_seconds=at_least_seconds):
            job.refresh_from_db(fields=["next_attempt_at"])
            if job.next_attempt_at is not None:
                queue.ring_later(job, job.next_attempt_at)
            return "postponed"
    elif job.fail(**values):
        signals.repository_failed.send_robust(
            sender=CodeRepository, repository_id=job.repository_id, job_id=job.pk, error_code=error.code
        )
        return "failed"
    return "lost"


class _Heartbeat:
    """Renews the lease and writes progress, at most once a second when something moved, every ten seconds anyway."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._written: dict[str, Any] = {}
        self._written_at = time.monotonic()

    def on_progress(self, progress: Progress) -> None:
        """Take note of one sign of life.

        :raises LeaseLost: the job is no longer ours.
        """
        values = progress.to_json()
        due_seconds = PROGRESS_SECONDS if values != self._written else RENEW_SECONDS
        if self._written and time.monotonic() - self._written_at < due_seconds:
            return
        self._job.renew(progress=values, bytes_received=progress.received_bytes)
        self._written, self._written_at = values, time.monotonic()
