"""The model field that keeps an access token sealed; its import path is frozen by migrations."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from django.core import checks
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.module_loading import import_string

from coderepos.crypto.form_fields import TokenFormField
from coderepos.crypto.keyring import keyring
from coderepos.crypto.message import Context, Envelope
from coderepos.crypto.secret import Secret
from coderepos.crypto.stored_token import (
    MAX_TOKEN_CHARACTERS,
    PendingToken,
    SealedToken,
    StoredToken,
    TokenAttribute,
    validate_token,
)
from coderepos.hidden import HiddenText

__all__ = [
    "MAX_TOKEN_CHARACTERS",
    "EncryptedTokenField",
    "PendingToken",
    "SealedToken",
    "StoredToken",
    "validate_token",
]

if TYPE_CHECKING:
    _Field = models.Field[Any, Any]
else:
    _Field = models.Field


class EncryptedTokenField(_Field):
    """An access token, sealed for its row, its field and its project; the key's name stands in a field beside it.

    Text that is assigned is sealed when the row is saved. A sealed token of another row, or of the same one before its
    primary key or project was changed, is opened and sealed anew then. Lookups are limited to ``isnull``.

    :param kid_field: name of the text field that names the key; declared after this field.
    :param project_field: name of the foreign key whose value the token is bound to.
    :param origin_field: name of the text field whose origin (scheme, host and port) the token is bound to; empty for a
        token that is bound to no host.
    :param origin_of: dotted path of the function that returns the origin of such a text, or raises ``ValueError``.
    """

    descriptor_class = TokenAttribute
    description = "Sealed access token"

    def __init__(
        self,
        *args: Any,
        kid_field: str = "token_kid",
        project_field: str = "project",
        origin_field: str = "",
        origin_of: str = "",
        **kwargs: Any,
    ) -> None:
        self.kid_field = kid_field
        self.project_field = project_field
        self.origin_field = origin_field
        self.origin_of = origin_of
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> tuple[str, str, Any, dict[str, Any]]:
        """Return what migrations keep: no key, no token."""
        name, _, args, kwargs = super().deconstruct()
        kwargs |= {"kid_field": self.kid_field, "project_field": self.project_field}
        if self.origin_field:
            kwargs |= {"origin_field": self.origin_field, "origin_of": self.origin_of}
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

    @property
    def place_fields(self) -> tuple[str, ...]:
        """Names of the fields, besides the primary key, whose values the token is bound to."""
        return (self.project_field, *((self.origin_field,) if self.origin_field else ()))

    def context_of(self, instance: models.Model) -> Context:
        """Return what the token of a row is bound to.

        :raises ValueError: the row or its project has no primary key yet, or its URL is not usable.
        """
        return self.context_at([getattr(instance, name) for name in self.place_attnames])

    def context_at(self, place: Sequence[Any]) -> Context:
        """Return what a token is bound to: ``place`` holds the values of the primary key and of ``place_fields``.

        :raises ValueError: the row or its project has no primary key yet, or its URL is not usable.
        """
        meta = self.model._meta
        # to_python: a UUID that is still a text must give the name that it has once it was loaded
        row_id = meta.pk.to_python(place[0])
        project_id = cast("_Field", meta.get_field(self.project_field)).to_python(place[1])
        if row_id is None or project_id is None:
            raise ValueError("A token is sealed for one row of one project: both need their primary key first.")
        return Context(
            table=meta.db_table,
            field=self.name,
            row_id=str(row_id),
            project_id=str(project_id),
            origin=import_string(self.origin_of)(place[2]) if self.origin_field else None,
        )

    def place_of(self, instance: models.Model) -> tuple[Any, ...] | None:
        """Return the values that the token of a row is bound to; ``None`` where one of them is not loaded."""
        values, names = instance.__dict__, self.place_attnames
        return tuple(values[name] for name in names) if all(name in values for name in names) else None

    @property
    def place_attnames(self) -> list[str]:
        """Names of the attributes that the token is bound to, that of the primary key first."""
        meta = self.model._meta
        return [cast("_Field", one).attname for one in (meta.pk, *map(meta.get_field, self.place_fields))]

    def stored_form(self, value: object) -> object:
        """Return what an instance keeps of an assigned value.

        :raises ValidationError: a text cannot be a token.
        :raises TypeError: the value is of any other kind.
        """
        if isinstance(value, SealedToken):
            return value.fixed()
        if isinstance(value, StoredToken):
            return value.secret()
        if isinstance(value, str):
            value = Secret(value)
        if isinstance(value, Secret):
            validate_token(HiddenText(value.reveal()))
        if value is None or isinstance(value, Secret | bytes):
            return value
        if isinstance(value, memoryview | bytearray):
            return bytes(value)
        raise TypeError(f"{self.name} takes a text or a Secret, not {type(value).__name__}.")

    def note_sealed(self, instance: models.Model, *, place: tuple[Any, ...] | None = None) -> None:
        """Note that the token of ``instance`` is sealed for ``place``; for what the row is now when ``None``."""
        value = instance.__dict__.get(self.attname)
        if isinstance(value, SealedToken):
            value = instance.__dict__[self.attname] = value.sealed
        if isinstance(value, bytes):
            known = value, instance.__dict__.get(self.kid_field), place or self.place_of(instance)
            instance._state.__dict__.setdefault("sealed_tokens", {})[self.attname] = known

    def is_in_place(self, instance: models.Model) -> bool:
        """Return whether the token of a row is known to be sealed for what the row is now."""
        known = instance._state.__dict__.get("sealed_tokens", {}).get(self.attname, (None, None, None))
        return (instance.__dict__.get(self.attname), instance.__dict__.get(self.kid_field)) == known[:2] and (
            self.is_at(instance, known[2])
        )

    def is_at(self, instance: models.Model, place: Sequence[Any] | None) -> bool:
        """Return whether a row is bound to what ``place`` says."""
        present = self.place_of(instance)
        if place is None or present is None or present == place:
            return place is not None and present is not None
        try:
            return self.context_at(present) == self.context_at(place)
        except ValueError:
            return False

    def seal_pending(self, instance: models.Model) -> None:
        """Leave the token of ``instance`` sealed for this row, and the name of its key beside it.

        :raises ValueError: sealed bytes do not open in this row, and cannot be sealed anew for it.
        :raises TokenUndecryptable: bytes are not a sealed token.
        :raises EncryptionUnavailable: a key that is needed is not available right now.
        """
        value = instance.__dict__.get(self.attname)
        if value is None or self.is_in_place(instance):
            return
        here = self.context_of(instance)
        if isinstance(value, bytes):
            Envelope.unpack(value)
            value = SealedToken(value, self.kid_of(instance), partial(self._sealed_for, instance, here))
        if isinstance(value, SealedToken):
            sealed, kid = value.moved_to(here)
        else:
            sealed, kid = keyring().seal(HiddenText(value.reveal()), here)
        instance.__dict__[self.attname] = sealed
        setattr(instance, self.kid_field, kid)
        self.note_sealed(instance)

    def seal(self, token: Secret, instance: models.Model) -> tuple[bytes, str]:
        """Return a token sealed for a row, and the name of its key.

        :raises ValueError: the row or its project does not have a primary key yet, or its URL is not usable.
        :raises EncryptionUnavailable: the key is not available right now.
        """
        return keyring().seal(HiddenText(token.reveal()), self.context_of(instance))

    def _sealed_for(self, instance: models.Model, here: Context) -> Context:
        """Return what the bytes in ``instance`` were sealed for, as far as is known; ``here`` otherwise."""
        sealed, kid, place = instance._state.__dict__.get("sealed_tokens", {}).get(self.attname, (None, None, None))
        known = (sealed, kid) == (instance.__dict__[self.attname], self.kid_of(instance)) and place is not None
        return self.context_at(place) if known else here

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """Seal what waits to be sealed, for the row that is about to be written."""
        self.seal_pending(model_instance)
        return super().pre_save(model_instance, add)

    def get_prep_value(self, value: Any) -> Any:
        """Return the sealed bytes.

        :raises TypeError: the value is not a sealed token, and would be stored readable.
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
        return TokenFormField(**{name: value for name, value in kwargs.items() if name in ("label", "help_text")})

    def value_from_object(self, obj: models.Model) -> str | None:
        """Return nothing: forms never see a stored token; ``None`` where there is none, which fixtures keep."""
        return None if self.null and getattr(obj, self.attname) is None else ""

    def save_form_data(self, instance: models.Model, data: Any) -> None:
        """Take a new token from a form; an empty one means that the old one stays."""
        if data:
            setattr(instance, self.name, data)
