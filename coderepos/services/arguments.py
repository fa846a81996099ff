"""What the services that ask a Git host have in common before they begin."""

from __future__ import annotations

import re
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import connections

from coderepos.crypto.fields import validate_token
from coderepos.crypto.redaction import redact
from coderepos.crypto.secret import HIDDEN, Secret
from coderepos.exceptions import CodeReposError, InvalidState, NotFound
from coderepos.git.refs import commit_id
from coderepos.hidden import HiddenText
from coderepos.models import CodeRepository

URL_CHARACTERS: Final = 300
"""Longest text of a URL that the audit trail keeps of a call that was refused."""

_USERINFO: Final = re.compile(r"[^/\\]*@")
_UNPRINTABLE: Final = re.compile(r"[^!-~]+")


def refuse_transaction(what: str) -> None:
    """Refuse to ask a Git host while a transaction is open, which would hold its locks as long as the host likes.

    :raises RuntimeError: one is open, in any database; a test case's own does not count.
    """
    for connection in connections.all(initialized_only=True):
        blocks = connection.atomic_blocks
        if blocks and not blocks[-1]._from_testcase:  # type: ignore[attr-defined]  # as Django's own "durable"
            raise RuntimeError(
                f"{what} asks the Git host and must not be called inside a transaction: "
                "call it outside of atomic(), or by transaction.on_commit()."
            )


def own_copy(repository: CodeRepository) -> CodeRepository:
    """Return the row as it is now: a service changes its own copy, so that a failure leaves the caller's as it was.

    :raises NotFound: it was deleted.
    """
    copy = CodeRepository.objects.filter(pk=repository.pk).first()
    if copy is None:
        raise NotFound
    return copy


def changed_meanwhile(repository: CodeRepository, what: str) -> CodeReposError:
    """Return the error where a row is no longer what was tested on the remote.

    :param what: what was tested.
    """
    if not CodeRepository.objects.filter(pk=repository.pk).exists():
        return NotFound()
    return InvalidState(f"The repository was changed while {what} tested; try again.")


def as_secret(access_token: Secret | str | None) -> Secret:
    """Return a token as what hides it; an empty one for ``None``.

    :raises ValidationError: it has characters that no token has.
    """
    if isinstance(access_token, Secret):
        return access_token
    access_token = HiddenText(access_token or "")
    validate_token(access_token)
    return Secret(access_token)


def normal_ref(ref: str) -> str:
    """Return a ref as it is stored: a full commit id in lower case, so that it is the same one in either."""
    return commit_id(ref) or ref


def check_username(username: str, access_token: Secret) -> str:
    """Return the user name that is stored: none without a token, with which alone it is used.

    :raises ValidationError: it is a token itself, which would be stored and shown readable.
    """
    if looks_like_token(username) or (username and access_token and username == access_token.reveal()):
        raise ValidationError({"username": "This is an access token; give it as access_token, and no user name."})
    return username if access_token else ""


def looks_like_token(username: str) -> bool:
    """Return whether a user name has the form of a token of one of the platforms."""
    return redact(username) != username or re.fullmatch(r"[0-9a-f]{40}", username) is not None


def shown_url(text: Any) -> str:
    """Return what the audit trail keeps of a URL that was refused: printable, without credentials, bounded."""
    text = _UNPRINTABLE.sub("", redact(HiddenText(str(text))))
    scheme, found, rest = text.partition("://")
    scheme, rest = (scheme + found, rest) if found else ("", text)
    rest = re.split(r"[?#]", _USERINFO.sub(f"{HIDDEN}@", rest))[0]
    return f"{scheme}{rest}"[:URL_CHARACTERS]
