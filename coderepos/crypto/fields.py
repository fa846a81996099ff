"""The model field that keeps an access token sealed; its import path is frozen by migrations."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from django import forms
from django.core import checks
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.query_utils import DeferredAttribute

from coderepos.crypto.envelope import Context, Envelope
from coderepos.crypto.keyring import keyring
from coderepos.crypto.secret import HIDDEN, Secret
from coderepos.exceptions import TokenUndecryptable

MAX_TOKEN_CHARACTERS: Final = 4096

if TYPE_CHECKING:
    _Field = models.Field[Any, Any]
else:
    _Field = models.Field


def validate_token(text: str) -> None:
    """Refuse what no Git host uses as a token; no platform's pattern is assumed, nothing is trimmed.

    :raises ValidationError: it is too long, or has a character that does not print.
    """
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
        :raises EncryptionUnavailable: the key cannot be asked right now.
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
            return SealedToken(value, kid, partial(self.field.context_of, instance))
        return value

    def __set__(self, instance: models.Model, value: object) -> None:
        instance.__dict__[self.field.attname] = self.field.stored_form(value)


class EncryptedTokenField(_Field):
    """An access token, sealed for its row, its field and its project; the key's name stands in a field beside it.

    Text that is assigned is sealed when the row is saved. Lookups are limited to ``isnull``.

    :param kid_field: name of the text field that names the key; declared after this field.
    :param project_field: name of the foreign key whose value the token is bound to.
    """

    descriptor_class = TokenAttribute
    description = "Sealed access token"

    def __init__(self, *args: Any, kid_field: str = "token_kid", project_field: str = "project", **kwargs: Any) -> None:
        self.kid_field = kid_field
        self.project_field = project_field
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> tuple[str, str, Any, dict[str, Any]]:
        """Return what migrations keep: no key, no token."""
        name, _, args, kwargs = super().deconstruct()
        kwargs |= {"kid_field": self.kid_field, "project_field": self.project_field}
        return name, "coderepos.crypto.fields.EncryptedTokenField", args, kwargs

    def get_internal_type(self) -> str:
        """Return the name under which databases know the column's type."""
        return "BinaryField"

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """Check that the key's name stands in a field of the model, after this one."""
        names = [field.name for field in self.model._meta.local_concrete_fields]
        wrong = self.kid_field not in names or names.index(self.kid_field) < names.index(self.name)
        return super().check(**kwargs) + (
            [checks.Error(f"{self} needs the field {self.kid_field!r} after it.", obj=self, id="coderepos.E011")]
            if wrong
            else []
        )

    def get_lookup(self, lookup_name: str) -> Any:
        """Offer ``isnull`` alone: two seals of one token share nothing that could be compared."""
        return super().get_lookup(lookup_name) if lookup_name == "isnull" else None

    def kid_of(self, instance: models.Model) -> str:
        """Return the name of the key that sealed the token of a row."""
        return str(getattr(instance, self.kid_field))

    def context_of(self, instance: models.Model) -> Context:
        """Return what the token of a row is bound to.

        :raises ValueError: the row or its project has no primary key yet.
        """
        fields = instance._meta.pk, instance._meta.get_field(self.project_field)
        # to_python: a UUID that is still a text must give the name that it has once it was loaded
        row_id, project_id = (f.to_python(getattr(instance, f.attname)) for f in cast("tuple[_Field, _Field]", fields))
        if row_id is None or project_id is None:
            raise ValueError("A token is sealed for one row of one project: both need their primary key first.")
        return Context(table=self.model._meta.db_table, field=self.name, row_id=str(row_id), project_id=str(project_id))

    def stored_form(self, value: object) -> object:
        """Return what an instance keeps of an assigned value.

        :raises ValidationError: a text is no token.
        :raises TypeError: the value is of any other kind.
        """
        if isinstance(value, StoredToken):
            return value.sealed if isinstance(value, SealedToken) else value.secret()
        if isinstance(value, str):
            value = Secret(value)
        if isinstance(value, Secret):
            validate_token(value.reveal())
        if value is None or isinstance(value, Secret | bytes):
            return value
        if isinstance(value, memoryview | bytearray):
            return bytes(value)
        raise TypeError(f"{self.name} takes a text or a Secret, not {type(value).__name__}.")

    def seal_pending(self, instance: models.Model) -> None:
        """Seal a token that was assigned to ``instance``, and name the key beside it."""
        pending = instance.__dict__.get(self.attname)
        if isinstance(pending, Secret):
            sealed, kid = keyring().seal(pending.reveal(), self.context_of(instance))
            instance.__dict__[self.attname] = sealed
            setattr(instance, self.kid_field, kid)

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """Seal what waits to be sealed, for the row that is about to be written."""
        self.seal_pending(model_instance)
        return super().pre_save(model_instance, add)

    def get_prep_value(self, value: Any) -> Any:
        """Return the sealed bytes.

        :raises TypeError: the value is no sealed token, and would be stored readable.
        """
        if isinstance(value, SealedToken):
            value = value.sealed
        if isinstance(value, bytes):
            Envelope.unpack(value)
            return value
        if value is None or hasattr(value, "resolve_expression"):
            return value
        raise TypeError(f"{self.name} is sealed by save(), bulk_create() and bulk_update() only.")

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        """Return the sealed bytes as the database's driver wants them."""
        value = value if prepared else self.get_prep_value(value)
        return connection.Database.Binary(value) if isinstance(value, bytes) else value

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> bytes | None:
        """Return bytes, whatever the driver returns."""
        return None if value is None else bytes(value)

    def to_python(self, value: Any) -> Any:
        """Return the sealed bytes of a fixture's base64; anything else as it is."""
        return base64.b64decode(value, validate=True) if isinstance(value, str) else value

    def clean(self, value: Any, model_instance: models.Model | None) -> Any:
        """Leave the token alone: it was checked when it was assigned."""
        if value is None and not self.null:
            raise ValidationError(self.error_messages["null"], code="null")
        return value

    def value_to_string(self, obj: models.Model) -> str:
        """Return the sealed bytes as base64, for fixtures; they still open for their own row alone."""
        self.seal_pending(obj)
        return base64.b64encode(getattr(obj, self.attname).sealed).decode()

    def formfield(self, **kwargs: Any) -> Any:
        """Return a password field that is never rendered back and, left empty, changes nothing."""
        widget = forms.PasswordInput(render_value=False, attrs={"autocomplete": "off"})
        return forms.CharField(
            **{
                "required": False,
                "strip": False,
                "max_length": MAX_TOKEN_CHARACTERS,
                "validators": [validate_token],
                "label": "Access token",
                "widget": widget,
                **{name: value for name, value in kwargs.items() if name in ("label", "help_text")},
            }
        )

    def value_from_object(self, obj: models.Model) -> str | None:
        """Return nothing: forms never see a stored token; ``None`` where there is none, which fixtures keep."""
        return None if self.null and getattr(obj, self.attname) is None else ""

    def save_form_data(self, instance: models.Model, data: Any) -> None:
        """Take a new token from a form; an empty one means that the old one stays."""
        if data:
            setattr(instance, self.name, data)
