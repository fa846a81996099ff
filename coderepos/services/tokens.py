"""Replacing the token of a connected repository."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from django.db.models.functions import Now

from coderepos import access
from coderepos.access import Action
from coderepos.conf import conf
from coderepos.crypto.keyring import keyring
from coderepos.crypto.secret import Secret
from coderepos.exceptions import CodeReposError, InvalidState, RepositoryTooLarge
from coderepos.git.probe import probe
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, alias
from coderepos.models.locking import row_transaction
from coderepos.models.token_status import database_time
from coderepos.services import engine
from coderepos.services.arguments import as_secret, check_username, refuse_transaction
from coderepos.services.trail import record_failure, require

logger = logging.getLogger(__name__)


def replace_token(
    *, user: Any, repository: CodeRepository, access_token: Secret | str, username: str | None = None
) -> CodeRepository:
    """Put another token in the place of the stored one, after the Git host took it.

    Until then the old one stays, and a job that runs keeps what it opened.

    :param username: user name that goes with the token; ``None`` for the one that is stored.
    :returns: the repository with its new ``token_status``.
    :raises PermissionDenied: the user's role does not allow it.
    :raises InvalidState: the URL was changed while the token was tested.
    :raises CodeReposError: the leaf that says why the new token was not taken; nothing was changed.
    :raises ValidationError: the token has characters that none has, or the user name is a token.
    :raises RuntimeError: a transaction is open.
    """
    refuse_transaction("replace_token()")
    access_token = as_secret(access_token)
    username = check_username(repository.username if username is None else username, access_token)
    require(user, Action.REPLACE_TOKEN, repository)
    access.spend_connect_quota(repository.project_id)
    keyring().require_primary()
    repository.username = username
    try:
        expires_at = _expiry(repository, access_token)
    except CodeReposError as error:
        record_failure(AuditEvent.REFUSED, error, repository=repository, actor=user)
        raise
    _swap(repository, access_token, expires_at, user=user)
    logger.info("repository %s: token replaced", repository.pk)
    return CodeRepository.objects.without_token().with_token_status().get(pk=repository.pk)


def _expiry(repository: CodeRepository, access_token: Secret) -> datetime | None:
    """Test a token against the remote, and return when it expires where that is told."""
    try:
        with engine.remote_text_redacted():
            report = probe(engine.clone_request(repository, access_token), seconds=conf.PROBE_TIMEOUT)
    except RepositoryTooLarge:
        # The token was taken; that the repository has grown is for the next clone to say.
        return None
    return report.token_expires_at


def _swap(repository: CodeRepository, access_token: Secret, expires_at: datetime | None, *, user: Any) -> None:
    """Write the token and all that belongs to it in one step, where the URL is still the one that was asked."""
    repository.token_ciphertext = access_token
    repository.seal_token()
    with row_transaction(alias()):
        won = CodeRepository.objects.filter(pk=repository.pk, git_url=repository.git_url).update(
            token_ciphertext=repository.token_ciphertext,
            token_kid=repository.token_kid,
            has_token=repository.has_token,
            username=repository.username,
            token_accepted=True,
            token_expires_at=database_time(expires_at),
            updated_at=Now(),
        )
        if not won:
            raise InvalidState("The repository was changed while its new token was tested; try again.")
        AuditEntry.objects.record(
            AuditEvent.REPLACED, repository=repository, actor=user, details={"kid": repository.token_kid}
        )
