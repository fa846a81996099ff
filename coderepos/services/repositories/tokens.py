"""Replacing the token of a connected repository."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db.models.functions import Now

from coderepos import engine
from coderepos.access import Action
from coderepos.conf import conf
from coderepos.crypto.keyring import keyring
from coderepos.crypto.secret import Secret
from coderepos.exceptions import CodeReposError, NotFound, RemoteAuthFailed, RepositoryTooLarge
from coderepos.git.probe import probe
from coderepos.hidden import HiddenText
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, alias
from coderepos.models.database_clock import database_time
from coderepos.models.locking import RowHeld, busy_reported, row_transaction
from coderepos.services.repositories import probing
from coderepos.services.repositories.arguments import (
    as_secret,
    changed_meanwhile,
    check_username,
    check_values,
    own_copy,
    refuse_transaction,
)
from coderepos.services.repositories.quotas import allowance_of_repository
from coderepos.services.trail import audit_failure, require

logger = logging.getLogger(__name__)


def replace_token(
    *, user: Any, repository: CodeRepository, access_token: Secret | str, username: str | None = None
) -> CodeRepository:
    """Replace the stored token of a repository, after the Git host accepted the new one.

    Until then the old one stays, and a running job keeps the one that it opened.

    :param username: user name that goes with the token; ``None`` for the stored one.
    :returns: the repository with its new ``token_status``.
    :raises PermissionDenied: the user's role does not allow it.
    :raises InvalidState: the URL or the user name was changed while the token was tested.
    :raises NotFound: the repository was deleted.
    :raises DatabaseBusy: another transaction was in the way; nothing was changed.
    :raises CodeReposError: a subclass that names why the new token was not accepted; nothing was changed.
    :raises ValidationError: the token has characters that tokens do not have, or the user name is a token.
    :raises RuntimeError: a transaction is open.
    """
    if isinstance(access_token, str):
        access_token = HiddenText(access_token)  # before anything can raise, with this frame in its traceback
    refuse_transaction("replace_token()")
    access_token = as_secret(access_token)
    check_values(ref="", depth=None, username=username or "")
    require(user, Action.REPLACE_TOKEN, repository)
    repository = own_copy(repository)
    before = {"git_url": repository.git_url, "username": repository.username}
    repository.username = check_username(repository.username if username is None else username, access_token)
    with busy_reported():
        try:
            keyring().require_primary()
            with probing.slot(allowance_of_repository(repository, user)):
                expires_at = _expiry(repository, access_token)
            _swap(repository, access_token, expires_at, before, user=user)
        except CodeReposError as error:
            event = AuditEvent.TOKEN_REFUSED if isinstance(error, RemoteAuthFailed) else AuditEvent.CONNECT_REJECTED
            audit_failure(event, error, repository=repository, actor=user)
            raise
    logger.info("repository %s: token replaced", repository.pk)
    replaced = CodeRepository.objects.without_token().with_token_status().filter(pk=repository.pk).first()
    if replaced is None:
        raise NotFound
    return replaced


def _expiry(repository: CodeRepository, access_token: Secret) -> datetime | None:
    """Test a token against the remote, and return when it expires, if the host reports that."""
    try:
        with engine.remote_text_redacted():
            report = probe(engine.clone_request(repository, access_token), seconds=conf.PROBE_TIMEOUT)
    except RepositoryTooLarge:
        # The token was accepted; the next clone reports that the repository has grown.
        return None
    return report.token_expires_at


def _swap(
    repository: CodeRepository,
    access_token: Secret,
    expires_at: datetime | None,
    before: Mapping[str, Any],
    *,
    user: Any,
) -> None:
    """Write the token and all that belongs to it in one UPDATE, if the row is still what was tested."""
    repository.token_ciphertext = access_token
    repository.seal_token()
    try:
        with row_transaction(alias()):
            won = CodeRepository.objects.filter(pk=repository.pk, **before).update(
                token_ciphertext=repository.token_ciphertext,
                token_kid=repository.token_kid,
                has_token=repository.has_token,
                username=repository.username,
                token_accepted=True,
                token_expires_at=database_time(expires_at),
                updated_at=Now(),
            )
            if not won:
                raise changed_meanwhile(repository, "its new token was")
            AuditEntry.objects.record(
                AuditEvent.TOKEN_REPLACED, repository=repository, actor=user, details={"kid": repository.token_kid}
            )
    except RowHeld:
        raise changed_meanwhile(repository, "its new token was") from None
