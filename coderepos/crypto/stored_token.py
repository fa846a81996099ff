"""What a model's token attribute reads as, and what it takes: a token that waits to be sealed, or a sealed one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.query_utils import DeferredAttribute

from coderepos.crypto.keyring import keyring
from coderepos.crypto.message import Context
from coderepos.crypto.secret import HIDDEN, Secret
from coderepos.exceptions import TokenUndecryptable
from coderepos.hidden import HiddenText

if TYPE_CHECKING:
    from coderepos.crypto.fields import EncryptedTokenField

MAX_TOKEN_CHARACTERS: Final = 4096


def validate_token(text: str) -> None:
    """Refuse what no Git host uses as a token; no platform's pattern is assumed, nothing is trimmed.

    :raises ValidationError: it is too long, or has a character that does not print.
    """
    text = HiddenText(text)
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise ValidationError(f"An access token has at most {MAX_TOKEN_CHARACTERS} characters.")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValidationError("An access token consists of printable ASCII characters without spaces.")


class StoredToken(ABC):
    """What a model's token attribute reads as: it shows nothing of itself, and opens by :meth:`secret`."""

    __slots__ = ()

    @abstractmethod
    def secret(self) -> Secret:
        """Return the token.

        :raises TokenUndecryptable: it was changed, or belongs to another row or key.
        :raises EncryptionUnavailable: the key is currently unavailable.
        """

    def reveal(self) -> str:
        """Return the plain text of the token; raises as :meth:`secret`."""
        return self.secret().reveal()

    def __str__(self) -> str:
        return HIDDEN

    def __repr__(self) -> str:
        return f"{type(self).__name__}({HIDDEN!r})"

    def __format__(self, format_spec: str) -> str:
        return HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("A token is never pickled.")


class PendingToken(StoredToken):
    """A token that was assigned and will be sealed when its row is saved."""

    __slots__ = ("_secret",)

    def __init__(self, secret: Secret) -> None:
        self._secret: Final = secret

    def secret(self) -> Secret:
        """Return the token."""
        return self._secret


class SealedToken(StoredToken):
    """A sealed token, bound to one row."""

    __slots__ = ("_context", "kid", "sealed")

    def __init__(self, sealed: bytes, kid: str, context: Callable[[], Context]) -> None:
        self.sealed: Final = sealed
        """Bytes in format ``CRE1``."""
        self.kid: Final = kid
        self._context: Final = context

    def fixed(self) -> SealedToken:
        """Return the token as what belongs to its row as that is now, for another row to keep."""
        if not isinstance(self._context, _ContextOf) or (place := self._context.place()) is None:
            return self
        return SealedToken(self.sealed, self.kid, partial(self._context.field.context_at, place))

    def moved_to(self, here: Context) -> tuple[bytes, str]:
        """Return the sealed bytes for a row and the name of their key: the same where it is their own row.

        :raises ValueError: the token belongs to another host, or does not open.
        :raises EncryptionUnavailable: a key that is needed is not available right now.
        """
        try:
            there = self.context
            if there.origin in (None, here.origin):
                secret = self.secret()
                return (self.sealed, self.kid) if there == here else keyring().seal(HiddenText(secret.reveal()), here)
        except TokenUndecryptable:
            raise ValueError(
                "The sealed token does not open for the row that it comes from; assign the token itself."
            ) from None
        raise ValueError("The sealed token belongs to another host; assign a token for this one.")

    def secret(self) -> Secret:
        """Return the token, opened; raises as the base class says."""
        return Secret(keyring().open(self.sealed, self.kid, self.context))

    @property
    def context(self) -> Context:
        """Where the token belongs.

        :raises TokenUndecryptable: its row belongs to no project any more.
        """
        try:
            return self._context()
        except ValueError:
            raise TokenUndecryptable from None


class _ContextOf:
    """What the token of a row is bound to, as the row is when it is asked."""

    __slots__ = ("_instance", "field")

    def __init__(self, field: EncryptedTokenField, instance: models.Model) -> None:
        self.field: Final = field
        self._instance: Final = instance

    def __call__(self) -> Context:
        return self.field.context_of(self._instance)

    def place(self) -> tuple[Any, ...] | None:
        return self.field.place_of(self._instance)


class TokenAttribute(DeferredAttribute):
    """Keeps sealed bytes, or a ``Secret`` that waits to be sealed, in the instance; reads as a :class:`StoredToken`."""

    field: EncryptedTokenField

    def __get__(self, instance: models.Model | None, cls: type[models.Model] | None = None) -> Any:
        if instance is None:
            return self
        super().__get__(instance, cls)
        kid = self.field.kid_of(instance)
        value = instance.__dict__[self.field.attname]  # only now: what was deferred has been loaded, both at once
        if isinstance(value, Secret):
            return PendingToken(value)
        if isinstance(value, bytes):
            return SealedToken(value, kid, _ContextOf(self.field, instance))
        return value

    def __set__(self, instance: models.Model, value: object) -> None:
        value = HiddenText(value) if isinstance(value, str) else value
        form = self.field.stored_form(value)
        if isinstance(form, SealedToken) and form.sealed == instance.__dict__.get(self.field.attname):
            return  # the row's own token, assigned back to it
        instance.__dict__[self.field.attname] = form
