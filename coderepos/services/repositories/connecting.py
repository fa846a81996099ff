"""Connecting a repository: check it, probe it, store it with its token sealed, queue its clone."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from typing import Any, Final

from django.db import IntegrityError

from coderepos import access, engine, queues, signals
from coderepos.access import Action
from coderepos.conf import conf
from coderepos.crypto.keyring import keyring
from coderepos.crypto.redaction import redact
from coderepos.crypto.secret import Secret
from coderepos.engine import network_policy, project_key
from coderepos.exceptions import (
    BUSY_SECONDS,
    AlreadyConnected,
    CodeReposError,
    DatabaseBusy,
    InvalidState,
    JobRunning,
    NotFound,
)
from coderepos.git.platforms import platform_of
from coderepos.git.probe import probe
from coderepos.git.url import parse_git_url
from coderepos.hidden import HiddenText
from coderepos.models import AuditEntry, AuditEvent, CloneStatus, CodeRepository, Job, JobKind, alias
from coderepos.models.database_clock import database_time
from coderepos.models.locking import RowHeld, busy_reported, row_transaction
from coderepos.services import turns
from coderepos.services.afterwards import announce
from coderepos.services.disk.admission import require_budget
from coderepos.services.disk.publication import size_mb
from coderepos.services.repositories import probing
from coderepos.services.repositories.arguments import (
    as_secret,
    check_username,
    check_values,
    normal_ref,
    refuse_transaction,
    shown_url,
)
from coderepos.services.repositories.quotas import Allowance, allowance_of, allowance_of_repository
from coderepos.services.trail import audit_failure, require

REF_CHARACTERS: Final = 255
"""Most characters of the ref of a rejected call that the audit trail keeps."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """A connected repository and the job that will clone it."""

    repository: CodeRepository
    job: Job


def connect_repository(  # noqa: PLR0913  all by name, as in the request
    *,
    user: Any,
    project_id: object,
    git_url: str,
    access_token: Secret | str | None = None,
    ref: str = "",
    username: str = "",
    depth: int | None = None,
) -> Connection:
    """Connect a repository to a project, after its size and credentials were tested against the remote.

    The remote is asked outside of any transaction; nothing but the audit trail is written before every test has
    passed.

    :param project_id: key of the project, or the project.
    :param git_url: surrounding white space is stripped.
    :param access_token: empty or ``None`` for a public repository.
    :param depth: commits of history to keep; all when ``None``.
    :raises DatabaseBusy: another transaction was in the way; nothing was stored.
    :raises CodeReposError: a subclass that names the reason; the repository was not stored.
    :raises ValidationError: the API would reject a value, or the user name is a token.
    :raises RuntimeError: a transaction is open.
    """
    if isinstance(access_token, str):
        access_token = HiddenText(access_token)  # before anything can raise, with this frame in its traceback
    refuse_transaction("connect_repository()")
    access_token = as_secret(access_token)
    check_values(ref=ref, depth=depth, username=username)
    username = check_username(username, access_token)
    project = access.find_project(user, project_id)
    with busy_reported():
        try:
            access.require(user, Action.CONNECT, project.pk)
            project_key(project.pk)
            return _connect(
                allowance_of(project, user),
                CodeRepository(
                    project_id=project.pk,
                    git_url=git_url.strip(),
                    ref=normal_ref(ref),
                    depth=depth,
                    username=username,
                    connected_by_id=user.pk,
                ),
                access_token,
                user=user,
            )
        except CodeReposError as error:
            details = {"git_url": shown_url(git_url), "ref": redact(ref)[:REF_CHARACTERS]}
            audit_failure(AuditEvent.CONNECT_REJECTED, error, project_id=project.pk, actor=user, details=details)
            raise


def _connect(allowance: Allowance, repository: CodeRepository, access_token: Secret, *, user: Any) -> Connection:
    """Test a repository that is not stored yet against the remote, and store it."""
    url = parse_git_url(repository.git_url, network_policy())
    repository.url_key, repository.platform = url.key, platform_of(url)
    reject_duplicate(repository)
    allowance.check_repositories(new=1)
    allowance.check_jobs(new=1)
    keyring().require_primary()

    with probing.slot(allowance), engine.remote_text_redacted():
        report = probe(engine.clone_request(repository, access_token), seconds=conf.PROBE_TIMEOUT)

    require_budget(repository, report.estimated_bytes)
    allowance.check_repositories(new=1, new_bytes=report.estimated_bytes)
    repository.estimated_size_mb = size_mb(report.estimated_bytes)
    repository.size_source = report.size_source
    repository.ref_name = report.ref_name
    repository.token_ciphertext = access_token
    repository.token_accepted = True
    repository.token_expires_at = database_time(report.token_expires_at)
    # Before the transaction: a key service that hangs would block every other writer of SQLite.
    repository.seal_token()
    try:
        with row_transaction(alias(), read_committed=True):
            repository.save(force_insert=True)
            job = _queue_clone(repository, allowance)
            allowance.check_repositories(new=0)
            AuditEntry.objects.record(
                AuditEvent.CONNECTED,
                repository=repository,
                actor=user,
                job_id=job.pk,
                details={"git_url": repository.git_url, "ref": repository.ref, "size_source": report.size_source},
            )
            announce(
                signals.repository_connected,
                repository_id=repository.pk,
                project_id=repository.project_id,
                job_id=job.pk,
            )
    except IntegrityError:
        reject_duplicate(repository)
        # The project may have been deleted while the remote was asked.
        access.find_project(user, repository.project_id)
        raise
    except RowHeld as error:
        # Of the same repository, by a transaction that may still be rolled back.
        reject_duplicate(repository)
        raise DatabaseBusy(retry_after_seconds=BUSY_SECONDS) from error
    logger.info("repository %s connected to project %s, job %s", repository.pk, repository.project_id, job.pk)
    return Connection(repository=repository, job=job)


@busy_reported()
def clone_repository(*, user: Any, repository: CodeRepository) -> Job:
    """Queue another clone of a repository that is FAILED, CLEANED or COMPLETED.

    One that is COMPLETED stays so: readers keep their version until another one is published.

    :raises PermissionDenied: the user's role does not allow it.
    :raises JobRunning: work on it is under way.
    :raises InvalidState: its state does not allow a clone.
    :raises NotFound: it was deleted.
    :raises TooManyJobs: the project or the user has as many as it may.
    :raises StorageQuotaExceeded: it was CLEANED, and there is no room for it again.
    :raises DatabaseBusy: another transaction was in the way; nothing was changed.
    """
    require(user, Action.CLONE, repository)
    allowance = allowance_of_repository(repository, user)
    allowance.check_jobs(new=1)
    try:
        with row_transaction(alias(), read_committed=True):
            return start_again(repository, allowance)
    except (IntegrityError, RowHeld):
        raise JobRunning from None


def start_again(repository: CodeRepository, allowance: Allowance) -> Job:
    """Queue another clone of a repository and update its ``clone_status``, inside a transaction of the caller's.

    :raises JobRunning: work on it is under way.
    :raises InvalidState: its state does not allow a clone.
    :raises NotFound: it was deleted.
    :raises TooManyJobs: the project or the user has as many as it may.
    :raises StorageQuotaExceeded: it was CLEANED, and there is no room for it again.
    :raises IntegrityError: it got another job at the same time.
    """
    is_cleaned = repository.restart((CloneStatus.CLEANED,))
    if is_cleaned:
        allowance.lock()
        allowance.check_size()
    if is_cleaned or repository.restart():
        repository.clone_status = CloneStatus.PENDING
        return _queue_clone(repository, allowance)
    if repository.lock_completed():
        repository.clone_status = CloneStatus.COMPLETED
        return _queue_clone(repository, allowance, JobKind.UPDATE)
    status = CodeRepository.objects.filter(pk=repository.pk).values_list("clone_status", flat=True).first()
    if status is None:
        raise NotFound
    if status in (CloneStatus.PENDING, CloneStatus.CLONING, CloneStatus.CLEANING):
        raise JobRunning
    raise InvalidState(f"A repository that is {status} cannot be cloned again.")


def _queue_clone(repository: CodeRepository, allowance: Allowance, kind: JobKind = JobKind.CLONE) -> Job:
    limits = allowance.limits
    allowance.lock()
    job = Job.objects.create(
        repository=repository, kind=kind, flow=limits.flow, max_attempts=1 + conf.CLONE_MAX_RETRIES
    )
    allowance.check_jobs(new=0)
    turns.join(job, limits)
    queues.enqueue(job)
    return job


def reject_duplicate(repository: CodeRepository) -> None:
    """Reject a repository that its project already has at the same ref.

    :raises AlreadyConnected: with the id of the existing one.
    """
    existing_id: uuid.UUID | None = (
        CodeRepository.objects.exclude(pk=repository.pk)
        .filter(project_id=repository.project_id, url_key=repository.url_key, ref=repository.ref)
        .values_list("pk", flat=True)
        .first()
    )
    if existing_id is not None:
        raise AlreadyConnected(repo_id=str(existing_id))
