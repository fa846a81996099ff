"""Checks of arguments that the services which ask a Git host have in common."""

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
"""Most characters of the URL of a refused call that the audit trail keeps."""

LARGEST_DEPTH: Final = 2**31 - 1
REF_BYTES: Final = 255

MAX_USERNAME_CHARACTERS: Final = 2_048
"""Some hosts take a session token as the user name; that of AWS CodeCommit has more than a thousand characters."""

_USERINFO: Final = re.compile(r"[^/\\]*@")
_UNPRINTABLE: Final = re.compile(r"[^!-~]+")


def refuse_transaction(what: str, *, does: str = "asks the Git host") -> None:
    """Refuse to ask a Git host while a transaction is open, whose locks would be held until the host answers.

    :param what: the call that is refused.
    :param does: why it is, where it waits for somebody else.
    :raises RuntimeError: one is open, on any database; a test case's own does not count.
    """
    for connection in connections.all(initialized_only=True):
        blocks = connection.atomic_blocks
        if blocks and not blocks[-1]._from_testcase:  # type: ignore[attr-defined]  # as Django's own "durable"
            raise RuntimeError(
                f"{what} {does} and must not be called inside a transaction: "
                "call it outside of atomic(), or by transaction.on_commit()."
            )


def is_plain_text(text: str) -> bool:
    """Return whether ``text`` has neither control characters nor lone surrogates, which UTF-8 cannot carry."""
    return not any(ord(char) < 32 or 127 <= ord(char) < 160 or 0xD800 <= ord(char) < 0xE000 for char in text)


def no_control_characters(text: str) -> None:
    """Reject text that is not plain; the message does not repeat it.

    :raises ValidationError: the text has control characters or lone surrogates.
    """
    if not is_plain_text(text):
        raise ValidationError("Line breaks and other control characters are not allowed.", code="control")


def at_most_ref_bytes(text: str) -> None:
    """Reject a ref that is longer than Git hosts accept.

    :raises ValidationError: the text takes more than :data:`REF_BYTES` bytes.
    """
    if len(text.encode("utf-8", "surrogatepass")) > REF_BYTES:
        raise ValidationError(f"At most {REF_BYTES} bytes are allowed.", code="max_length")


def no_colon(text: str) -> None:
    """Reject a user name with a colon, which ends the user name in Basic credentials (RFC 7617, section 2).

    :raises ValidationError: the text has a colon.
    """
    if ":" in text:
        raise ValidationError("A colon is not allowed.", code="invalid")


def check_values(*, ref: str, depth: int | None, username: str) -> None:
    """Check arguments of callers in Python as the API checks its bodies.

    :raises ValidationError: with the name of the invalid value.
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
    """Return a fresh copy of the row: a service changes its own, so that a failure leaves the caller's unchanged.

    :raises NotFound: it was deleted.
    """
    copy = CodeRepository.objects.filter(pk=repository.pk).first()
    if copy is None:
        raise NotFound
    return copy


def changed_meanwhile(repository: CodeRepository, what: str) -> CodeReposError:
    """Return the error for a row that changed while it was tested against the remote.

    :param what: what was tested.
    """
    if not CodeRepository.objects.filter(pk=repository.pk).exists():
        return NotFound()
    return InvalidState(f"The repository was changed while {what} tested; try again.")


def as_secret(access_token: Secret | str | None) -> Secret:
    """Return a token as a ``Secret``; an empty one for ``None``.

    :raises ValidationError: it has characters that tokens do not have.
    :raises TypeError: it is neither a ``str`` nor a ``Secret``; bytes would be stored as Python prints them.
    """
    if access_token is None:
        return Secret("")
    if isinstance(access_token, Secret):
        return access_token
    if not isinstance(access_token, str):
        raise TypeError("An access token must be a str or a Secret.")
    access_token = HiddenText(access_token)
    validate_token(access_token)
    return Secret(access_token)


def normal_ref(ref: str) -> str:
    """Return a ref as it is stored: a full commit id in lower case."""
    return commit_id(ref) or ref


def check_username(username: str, access_token: Secret) -> str:
    """Return the user name to store: none without a token, since it is used only with one.

    :raises ValidationError: it is a token itself, which would be stored and shown in clear text.
    """
    if looks_like_token(username) or (username and access_token and username == access_token.reveal()):
        raise ValidationError({"username": "This is an access token; give it as access_token, and no user name."})
    return username if access_token else ""


def looks_like_token(username: str) -> bool:
    """Return whether a user name has the format of a token of one of the platforms."""
    return redact(username) != username or re.fullmatch(r"[0-9a-f]{40}", username) is not None


def shown_url(text: Any) -> str:
    """Return what the audit trail keeps of a rejected URL: printable, without credentials, bounded."""
    text = _UNPRINTABLE.sub("", redact(HiddenText(str(text))))
    scheme, found, rest = text.partition("://")
    scheme, rest = (scheme + found, rest) if found else ("", text)
    rest = re.split(r"[?#]", _USERINFO.sub(f"{HIDDEN}@", rest))[0]
    return f"{scheme}{rest}"[:URL_CHARACTERS]
