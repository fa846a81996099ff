"""What the services that ask a Git host have in common before they begin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
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

LARGEST_DEPTH: Final = 2**31 - 1
REF_BYTES: Final = 255

MAX_USERNAME_CHARACTERS: Final = 2_048
"""Some hosts take a session token in the user name, AWS CodeCommit one of more than a thousand characters."""

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


def is_plain_text(text: str) -> bool:
    """Return whether ``text`` has neither control characters nor lone surrogates, which UTF-8 cannot carry."""
    return not any(ord(char) < 32 or 127 <= ord(char) < 160 or 0xD800 <= ord(char) < 0xE000 for char in text)


def no_control_characters(text: str) -> None:
    """Refuse text that is not plain; the message does not repeat it.

    :raises ValidationError: the text has control characters or lone surrogates.
    """
    if not is_plain_text(text):
        raise ValidationError("Line breaks and other control characters are not allowed.", code="control")


def at_most_ref_bytes(text: str) -> None:
    """Refuse a ref that is longer than Git hosts accept.

    :raises ValidationError: the text takes more than :data:`REF_BYTES` bytes.
    """
    if len(text.encode("utf-8", "surrogatepass")) > REF_BYTES:
        raise ValidationError(f"At most {REF_BYTES} bytes are allowed.", code="max_length")


def no_colon(text: str) -> None:
    """Refuse a user name that would move where the password starts (RFC 7617, section 2).

    :raises ValidationError: the text has a colon.
    """
    if ":" in text:
        raise ValidationError("A colon is not allowed.", code="invalid")


def check_values(*, ref: str, depth: int | None, username: str) -> None:
    """Hold callers in Python to what the API takes.

    :raises ValidationError: with the name of the value that is wrong.
    """
    with _named("ref"):
        no_control_characters(ref)
        at_most_ref_bytes(ref)
    with _named("username"):
        no_control_characters(username)
        no_colon(username)
        if len(username) > MAX_USERNAME_CHARACTERS:
            raise ValidationError(f"At most {MAX_USERNAME_CHARACTERS:,} characters are allowed.", code="max_length")
    with _named("depth"):
        if depth is not None and (type(depth) is not int or not 1 <= depth <= LARGEST_DEPTH):
            raise ValidationError(f"A number from 1 to {LARGEST_DEPTH}, or None for all.", code="invalid")


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise ValidationError({name: error.messages}) from None


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
    :raises TypeError: it is neither a text nor a ``Secret``; bytes would be stored as Python prints them.
    """
    if access_token is None:
        return Secret("")
    if isinstance(access_token, Secret):
        return access_token
    if not isinstance(access_token, str):
        raise TypeError("An access token is a text or a Secret.")
    access_token = HiddenText(access_token)
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
