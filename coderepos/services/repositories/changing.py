"""Changing the ref, the depth or the user name of a connected repository; its URL: ``models.url_change``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, TypedDict, Unpack

from django.db import IntegrityError
from django.db.models.functions import Now

from coderepos import engine
from coderepos.access import Action
from coderepos.conf import conf
from coderepos.crypto.secret import Secret
from coderepos.exceptions import CodeReposError, CryptoError, JobRunning, RemoteAuthFailed
from coderepos.git.probe import probe
from coderepos.git.results import ProbeReport
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Job, alias
from coderepos.models.locking import RowHeld, busy_reported, row_transaction
from coderepos.services.afterwards import failures_logged
from coderepos.services.disk.admission import require_budget
from coderepos.services.disk.publication import size_mb
from coderepos.services.repositories import probing
from coderepos.services.repositories.arguments import (
    changed_meanwhile,
    check_username,
    check_values,
    normal_ref,
    own_copy,
    refuse_transaction,
)
from coderepos.services.repositories.connecting import reject_duplicate, start_again
from coderepos.services.repositories.quotas import Allowance, allowance_of_repository, size_bytes_of
from coderepos.services.trail import audit_failure, require


class Changes(TypedDict, total=False):
    """New values of the fields that can be changed."""

    ref: str
    depth: int | None
    username: str


CHANGEABLE: Final = tuple(Changes.__annotations__)
"""Names of the fields that can be changed."""

logger = logging.getLogger(__name__)


@busy_reported()
def change_repository(*, user: Any, repository: CodeRepository, **changes: Unpack[Changes]) -> Job:
    """Give a repository another ref, depth or user name, after a test against the remote, and queue a clone of it.

    Readers of a repository that is COMPLETED keep their version until the new one is published.

    :param changes: new values of ``ref``, ``depth`` (``None`` for all commits) and ``username``; the others stay.
    :returns: the job of the clone.
    :raises PermissionDenied: the user's role does not allow it.
    :raises AlreadyConnected: the project has this URL with the new ref.
    :raises JobRunning: work on the repository is under way.
    :raises QuotaExceeded: the project or the user would have more jobs, or take more room, than it may.
    :raises InvalidState: it was changed meanwhile, or its state does not allow a clone.
    :raises NotFound: it was deleted.
    :raises DatabaseBusy: another transaction was in the way; nothing was changed.
    :raises CodeReposError: a subclass that names what the remote refused; nothing was changed.
    :raises ValidationError: the API would reject a value, or the user name is a token.
    :raises RuntimeError: a transaction is open.
    """
    refuse_transaction("change_repository()")
    if not changes or not {*changes} <= {*CHANGEABLE}:
        raise TypeError(f"change_repository() changes {', '.join(CHANGEABLE)}.")
    require(user, Action.CLONE, repository)
    repository = own_copy(repository)
    before = {name: getattr(repository, name) for name in ("git_url", *CHANGEABLE)}
    for name, value in changes.items():
        setattr(repository, name, value)
    check_values(ref=repository.ref, depth=repository.depth, username=repository.username)
    repository.ref = normal_ref(repository.ref)
    try:
        if repository.jobs.unfinished().exists():
            raise JobRunning
        reject_duplicate(repository)
        allowance = allowance_of_repository(repository, user)
        allowance.check_jobs(new=1)
        token = _open_token(repository, user)
        repository.username = check_username(repository.username, token)
        with probing.slot(allowance):
            report = _tested(repository, token, is_same_user=repository.username == before["username"])
        require_budget(repository, report.estimated_bytes)
        allowance.check_growth(repository, new_bytes=report.estimated_bytes)
        return _store(repository, report, before, allowance, user=user)
    except CodeReposError as error:
        details = {"ref": repository.ref, "depth": repository.depth}
        audit_failure(AuditEvent.CONNECT_REJECTED, error, repository=repository, actor=user, details=details)
        raise


def _open_token(repository: CodeRepository, user: Any) -> Secret:
    """Open the token, and record that or the failure to do so in the audit trail."""
    details = {"kid": repository.token_kid}
    try:
        token: Secret = repository.token_ciphertext.secret()
    except CryptoError as error:
        audit_failure(AuditEvent.DECRYPT_FAILED, error, repository=repository, actor=user, details=details)
        raise
    if token:
        AuditEntry.objects.record(AuditEvent.TOKEN_OPENED, repository=repository, actor=user, details=details)
    return token


def _tested(repository: CodeRepository, token: Secret, *, is_same_user: bool) -> ProbeReport:
    """Test the new values against the remote.

    :param is_same_user: Whether a refusal says anything about the stored token, which goes with its own user name.
    """
    try:
        with engine.remote_text_redacted():
            report = probe(engine.clone_request(repository, token), seconds=conf.PROBE_TIMEOUT)
    except RemoteAuthFailed:
        if is_same_user:
            _note(repository, accepted=False)
        raise
    _note(repository, accepted=True, expires_at=report.token_expires_at)
    return report


def _note(repository: CodeRepository, **values: Any) -> None:
    with (
        failures_logged("repository %s: the result of its token was not recorded", repository.pk),
        row_transaction(alias()),
    ):
        repository.record_token_result(**values)


def _store(
    repository: CodeRepository, report: ProbeReport, before: Mapping[str, Any], allowance: Allowance, *, user: Any
) -> Job:
    """Write the new values and queue the clone in one transaction, if the row is still what was tested."""
    tested = CodeRepository.objects.filter(pk=repository.pk, **before)
    grows = report.estimated_bytes > size_bytes_of(CodeRepository.objects.filter(pk=repository.pk))
    try:
        with row_transaction(alias(), read_committed=True):
            changed = tested.update(
                ref=repository.ref,
                depth=repository.depth,
                username=repository.username,
                estimated_size_mb=size_mb(report.estimated_bytes),
                estimated_at=Now(),
                size_source=report.size_source,
                updated_at=Now(),
            )
            if not changed:
                raise changed_meanwhile(repository, "the new values were")
            job = start_again(repository, allowance)
            if grows:
                allowance.check_size()
            details = {name: getattr(repository, name) for name in ("ref", "depth")}
            AuditEntry.objects.record(
                AuditEvent.CHANGED, repository=repository, actor=user, job_id=job.pk, details=details
            )
    except RowHeld:
        raise JobRunning from None
    except IntegrityError:
        reject_duplicate(repository)
        raise JobRunning from None
    logger.info("repository %s changed, job %s", repository.pk, job.pk)
    return job
