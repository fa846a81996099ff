"""Changing what is cloned of a connected repository: its ref, its depth, the user name of its token."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from django.db import IntegrityError
from django.db.models.functions import Now

from coderepos import access, engine
from coderepos.access import Action
from coderepos.conf import conf
from coderepos.crypto.secret import Secret
from coderepos.exceptions import CodeReposError, CryptoError, JobRunning, RemoteAuthFailed
from coderepos.git.probe import probe
from coderepos.git.results import ProbeReport
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Job, alias
from coderepos.models.locking import RowHeld, row_transaction
from coderepos.services.afterwards import failures_logged
from coderepos.services.arguments import (
    changed_meanwhile,
    check_username,
    check_values,
    normal_ref,
    own_copy,
    refuse_transaction,
)
from coderepos.services.connecting import refuse_second, start_again
from coderepos.services.publication import size_mb
from coderepos.services.trail import record_failure, require

CHANGEABLE: Final = ("ref", "depth", "username")
"""Names of what can be changed."""

logger = logging.getLogger(__name__)


def change_repository(*, user: Any, repository: CodeRepository, **changes: Any) -> Job:
    """Give a repository another ref, depth or user name, after a test against the remote, and clone it so.

    Readers of a repository that is COMPLETED keep the version that they have until the new one is published.

    :param changes: new values of ``ref``, ``depth`` (``None`` for all commits) and ``username``; the others stay.
    :returns: the job of the clone.
    :raises PermissionDenied: the user's role does not allow it.
    :raises AlreadyConnected: the project has this URL with the new ref.
    :raises JobRunning: work on the repository is under way.
    :raises InvalidState: it was changed meanwhile, or its state allows no clone.
    :raises NotFound: it was deleted.
    :raises CodeReposError: a subclass that says why the remote does not give this; nothing was changed.
    :raises ValidationError: a value is none that the API takes, or the user name is a token.
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
        refuse_second(repository)
        access.spend_connect_quota(repository.project_id)
        token = _open_token(repository, user)
        repository.username = check_username(repository.username, token)
        report = _tested(repository, token, is_same_user=repository.username == before["username"])
        return _store(repository, report, before, user=user)
    except CodeReposError as error:
        details = {"ref": repository.ref, "depth": repository.depth}
        record_failure(AuditEvent.REJECTED, error, repository=repository, actor=user, details=details)
        raise


def _open_token(repository: CodeRepository, user: Any) -> Secret:
    """Return the token, and leave a trace of it or of the failure to open it."""
    details = {"kid": repository.token_kid}
    try:
        token: Secret = repository.token_ciphertext.secret()
    except CryptoError as error:
        record_failure(AuditEvent.DECRYPT_FAILED, error, repository=repository, actor=user, details=details)
        raise
    if token:
        AuditEntry.objects.record(AuditEvent.TOKEN_OPENED, repository=repository, actor=user, details=details)
    return token


def _tested(repository: CodeRepository, token: Secret, *, is_same_user: bool) -> ProbeReport:
    """Return what the remote says to the new values.

    :param is_same_user: whether a refusal says anything about the stored token, which goes with its own user name.
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
        failures_logged("repository %s: what its host made of the token is not noted", repository.pk),
        row_transaction(alias()),
    ):
        repository.note_token(**values)


def _store(repository: CodeRepository, report: ProbeReport, before: Mapping[str, Any], *, user: Any) -> Job:
    """Write the new values and queue the clone in one step, where the row still is what the test began with."""
    tested = CodeRepository.objects.filter(pk=repository.pk, **before)
    try:
        with row_transaction(alias()):
            changed = tested.update(
                ref=repository.ref,
                depth=repository.depth,
                username=repository.username,
                estimated_size_mb=size_mb(report.estimated_bytes),
                size_source=report.size_source,
                updated_at=Now(),
            )
            if not changed:
                raise changed_meanwhile(repository, "the new values were")
            job = start_again(repository)
            details = {name: getattr(repository, name) for name in ("ref", "depth")}
            AuditEntry.objects.record(
                AuditEvent.CHANGED, repository=repository, actor=user, job_id=job.pk, details=details
            )
    except RowHeld:
        raise JobRunning from None
    except IntegrityError:
        refuse_second(repository)
        raise JobRunning from None
    logger.info("repository %s changed, job %s", repository.pk, job.pk)
    return job
