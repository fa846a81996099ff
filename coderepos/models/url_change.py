"""A changed URL of a repository: what follows it, and its token, which never follows it to another host."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from django.db import transaction

from coderepos.crypto.fields import EncryptedTokenField
from coderepos.crypto.rows import refuse_unsaved_places
from coderepos.crypto.secret import Secret
from coderepos.engine import has_origin, network_policy
from coderepos.git.platforms import platform_of
from coderepos.git.url import GitUrl, parse_git_url, read_git_url
from coderepos.models.audit import AuditEntry, AuditEvent

if TYPE_CHECKING:
    from coderepos.models.repository import CodeRepository


def set_url_fields(row: CodeRepository) -> GitUrl:
    """Set ``url_key`` and ``platform`` of a row by its URL, from which white space is stripped, and return the URL.

    :raises InvalidGitUrl: it is not usable.
    :raises UrlNotAllowed: its scheme is not supported.
    """
    row.git_url = row.git_url.strip()
    url = read_git_url(row.git_url)
    row.url_key, row.platform = url.key, platform_of(url)
    return url


def save_with_url(row: CodeRepository, names: set[str] | None, *, using: str, write: Callable[..., None]) -> None:
    """Save a row whose URL may have changed, and drop its token if that leads to another scheme, host or port.

    The URL in the database decides, not the one that was loaded: two saves at once must not bring the token of one
    host to the other. Tokens are sealed before the transaction, since a key service may hang; if the stored URL has
    changed by the time its row is locked, the decision is made again.

    :param names: names of the fields to save; all that changed when ``None``.
    :param write: saves the row under none of these rules, taking ``update_fields``.
    :raises InvalidGitUrl: a new URL is not usable.
    :raises UrlNotAllowed: the settings do not allow a new URL.
    """
    row.git_url = row.git_url.strip()
    has_new_token = _has_new_token(row, names)
    while True:
        stored = _stored_url(row, using)
        following, drops_token = _follow_url(row, stored, has_new_token=has_new_token)
        saved = None if names is None else names | following
        empty = _sealed_empty_token(row, saved, using) if drops_token else None
        if empty is None:
            row.seal_before_save(saved, using=using)
        with transaction.atomic(using=using):
            if _stored_url(row, using, lock=True) != stored:
                continue
            if empty is not None:
                _drop_token(row, *empty)
                AuditEntry.objects.using(using).record(AuditEvent.TOKEN_DROPPED, repository=row)
            write(update_fields=saved)
            return


def _has_new_token(row: CodeRepository, names: set[str] | None) -> bool:
    """Return whether the save writes a token that the caller assigned, now or before an earlier try that failed.

    Sealed bytes of any other origin may be for any host.
    """
    if names is not None and "token_ciphertext" not in names:
        return False
    if isinstance(vars(row).get("token_ciphertext"), Secret):
        return True
    field = token_field(row)
    return row.has_token and row.has_unsaved_token(field) and field.is_in_place(row)


def _stored_url(row: CodeRepository, using: str, *, lock: bool = False) -> str | None:
    rows = type(row)._base_manager.using(using).filter(pk=row.pk)
    return (rows.select_for_update() if lock else rows).values_list("git_url", flat=True).first()


def _follow_url(row: CodeRepository, stored: str | None, *, has_new_token: bool) -> tuple[set[str], bool]:
    """Set what follows a new URL, and return the names of those fields and whether the token must be dropped."""
    if stored == row.git_url:
        return set(), False
    if stored is None:
        set_url_fields(row)
        return set(), False
    parse_git_url(row.git_url, network_policy())
    url = set_url_fields(row)
    names = {"url_key", "platform"}
    if has_origin(stored, url):
        return names, False
    row.token_accepted = row.token_expires_at = None
    names |= {"token_accepted", "token_expires_at"}
    if has_new_token:
        return names, False
    return names | {"token_ciphertext", "username", "has_token"}, True


def _sealed_empty_token(row: CodeRepository, names: set[str] | None, using: str) -> tuple[bytes, str]:
    """Return an empty token sealed for a row, and the name of its key."""
    if names is not None:
        refuse_unsaved_places(token_field(row), [row], names, using)
    return token_field(row).seal(Secret(""), row)


def _drop_token(row: CodeRepository, sealed: bytes, kid: str) -> None:
    row.token_ciphertext, row.token_kid, row.username, row.has_token = sealed, kid, "", False
    token_field(row).note_sealed(row)


def token_field(row: CodeRepository) -> EncryptedTokenField:
    """Return the field that keeps the token of a row."""
    return row._meta.get_field("token_ciphertext")
