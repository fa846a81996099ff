"""Base classes of models with a sealed token: token and key name are written and read together, or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cache, partial
from typing import Any, Self, TypeVar

from django.db import models, router
from django.db.models.expressions import Case
from django.db.models.functions import Cast

from coderepos.crypto.fields import EncryptedTokenField, SealedToken


@cache
def token_fields(model: type[models.Model]) -> tuple[EncryptedTokenField, ...]:
    """Return every sealed field of a model."""
    return tuple(field for field in model._meta.concrete_fields if isinstance(field, EncryptedTokenField))


def _with_both(model: type[models.Model], names: Iterable[str]) -> set[str]:
    """Return field names with the missing half of each pair of token and key name."""
    both = set(names)
    for field in token_fields(model):
        if both & {field.name, field.kid_field}:
            both |= {field.name, field.kid_field}
    return both


def refuse_unsaved_places(
    field: EncryptedTokenField, rows: Sequence[models.Model], names: Iterable[str], using: str
) -> None:
    """Refuse to write a new token into a row that is bound to something else than it says itself.

    :param names: fields that are written, so that the row's own values of them count.
    :raises ValueError: the database has another project or another host for the row.
    """
    kept = {*field.place_fields} - {*names}
    pending = {row.pk: row for row in rows if not field.is_in_place(row)}
    if not kept or not pending:
        return
    stored = field.model._base_manager.using(using).filter(pk__in=list(pending)).values_list("pk", *field.place_fields)
    for pk, *values in stored:
        row = pending[pk]
        present = field.place_of(row) or (pk, *values)
        merged = [
            old if name in kept else new for name, old, new in zip(field.place_fields, values, present[1:], strict=True)
        ]
        if field.context_at([pk, *merged]) != field.context_of(row):
            raise ValueError(f"Save {' and '.join(sorted(kept))} together with the token, which is sealed for them.")


class SealedTokenModel(models.Model):
    """Base of models with an :class:`~coderepos.crypto.fields.EncryptedTokenField`.

    A token that was not assigned anew is never written back: a row that was read before its key was rotated, and is
    saved after it, must not return to the old key.
    """

    class Meta:
        abstract = True

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any], **kwargs: Any) -> Self:
        """Return a loaded row that remembers which tokens are those in the database."""
        row = super().from_db(db, field_names, values, **kwargs)
        row._remember_stored()
        return row

    def save(
        self,
        *,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        """Save, both halves of a pair where one changed, and neither where none did.

        :raises DatabaseError: the row was loaded, and has gone since.
        """
        using = using or router.db_for_write(type(self), instance=self)
        names = self.seal_before_save(update_fields, force_insert=force_insert, using=using)
        super().save(force_insert=force_insert, force_update=force_update, using=using, update_fields=names)
        self._remember_stored(names)

    def seal_before_save(
        self, update_fields: Iterable[str] | None, *, force_insert: Any = False, using: str
    ) -> set[str] | None:
        """Seal the tokens that a save writes, so that it asks no key service inside a transaction.

        The arguments are those of :meth:`save`.

        :returns: names of the fields that it writes; ``None`` for all.
        :raises ValueError: the row or its project does not have a primary key yet, or a token is for another row.
        :raises EncryptionUnavailable: a key that is needed is not available right now.
        """
        names = self._saved_fields(update_fields, force_insert=force_insert, using=using)
        self._prepare_related_fields_for_save(operation_name="save")  # type: ignore[attr-defined]  # takes keys over
        for field in token_fields(type(self)):
            if names is None or field.name in names:
                field.seal_pending(self)
        return names

    def _saved_fields(self, update_fields: Iterable[str] | None, *, force_insert: Any, using: str) -> set[str] | None:
        """Return the names of the fields that a save writes, both halves of a pair or none; ``None`` for all."""
        if update_fields is not None:
            names = self._with_moved_tokens(_with_both(type(self), update_fields))
            for field in token_fields(type(self)):
                if field.name in names:
                    refuse_unsaved_places(field, [self], names, using)
            return names
        if not force_insert and not self._state.adding and using == self._state.db:
            return self._changed_fields()
        return None

    def refresh_from_db(
        self, using: str | None = None, fields: Iterable[str] | None = None, from_queryset: Any = None
    ) -> None:
        """Load again, both halves of a pair where one is named: between two queries a key may be rotated."""
        names = None if fields is None else sorted(_with_both(type(self), fields))
        super().refresh_from_db(using=using, fields=names, from_queryset=from_queryset)
        self._remember_stored(names)

    def _changed_fields(self) -> set[str] | None:
        """Return the names of what a save of this loaded row writes; ``None``, everything, under a new primary key."""
        pk, _ = vars(self._state).get("stored_tokens", (None, {}))
        if pk != self.pk:
            return None
        names = {field.name for field in self._meta.concrete_fields if field.attname in vars(self)}
        names -= {field.name for field in self._meta.concrete_fields if field.primary_key or field.generated}
        for field in token_fields(type(self)):
            names -= {field.name, field.kid_field}
            if self.has_unsaved_token(field):
                names |= {field.name, field.kid_field}
        return self._with_moved_tokens(names)

    def has_unsaved_token(self, field: EncryptedTokenField) -> bool:
        """Return whether the token of this instance is known, and not to be the one in the database."""
        pk, stored = vars(self._state).get("stored_tokens", (None, {}))
        known = stored.get(field.attname, field) if pk == self.pk else field
        return field.attname in vars(self) and vars(self)[field.attname] != known

    def _with_moved_tokens(self, names: set[str]) -> set[str]:
        """Return field names with those of the tokens that have to follow the row to another project."""
        for field in token_fields(type(self)):
            loaded = vars(self._state).get("loaded_places", {}).get(field.attname)
            present = field.place_of(self)
            if field.project_field not in names or loaded is None or present is None or loaded[1] == present[1]:
                continue
            if not self.has_unsaved_token(field):
                # Not the one that was loaded: it may have been replaced since then.
                self.refresh_from_db(fields=[field.name])
                field.note_sealed(self, place=loaded)
            if vars(self)[field.attname] is not None:
                names |= {field.name, field.kid_field}
        return names

    def _remember_stored(self, names: Collection[str] | None = None) -> None:
        """Remember that the tokens of the fields ``names``, of all when ``None``, are those in the database."""
        pk, stored = vars(self._state).get("stored_tokens", (None, {}))
        for field in token_fields(type(self)):
            if names is None or field.name in names:
                field.note_sealed(self)
            if names is None or {*field.place_fields} & {*names}:
                vars(self._state).setdefault("loaded_places", {})[field.attname] = field.place_of(self)
        fresh = {
            field.attname: vars(self)[field.attname]
            for field in token_fields(type(self))
            if field.attname in vars(self) and (names is None or field.name in names)
        }
        vars(self._state)["stored_tokens"] = self.pk, {**(stored if pk == self.pk else {}), **fresh}


_Row = TypeVar("_Row", bound=SealedTokenModel)


class SealedTokenQuerySet(models.QuerySet[_Row]):
    """Base of querysets of models with an :class:`~coderepos.crypto.fields.EncryptedTokenField`."""

    def update(self, **kwargs: Any) -> int:
        """Update, with both halves of a pair or none, each token sealed already.

        :raises ValueError: one is named without the other, or a token is an expression.
        """
        self._require_both(kwargs)
        for field in token_fields(self.model):
            value = kwargs.get(field.name)
            # bulk_update, which seals, comes here with the two that are let through
            if hasattr(value, "resolve_expression") and not isinstance(value, Case | Cast):
                raise ValueError("A sealed token cannot be an expression: the database cannot seal.")
            if {*field.place_fields, *field.place_attnames[1:]} & {*kwargs}:
                raise ValueError(
                    f"A token is sealed for its {' and '.join(field.place_fields)}: change them by save()."
                )
            if isinstance(value, bytes | SealedToken):
                self._require_own(field, value, kwargs[field.kid_field])
        return super().update(**kwargs)

    update.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method

    def bulk_create(
        self,
        objs: Iterable[_Row],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        update_fields: Collection[str] | None = None,
        unique_fields: Collection[str] | None = None,
    ) -> list[_Row]:
        """Insert many rows, each token sealed for its row.

        :raises ValueError: on a conflict a token would get into another row than the one that it is sealed for.
        """
        for field in token_fields(self.model):
            if {field.name, field.kid_field} & set(update_fields or ()):
                raise ValueError("A sealed token cannot be updated on a conflict: it is sealed for the new row.")
        rows = super().bulk_create(
            objs,
            batch_size=batch_size,
            ignore_conflicts=ignore_conflicts,
            update_conflicts=update_conflicts,
            update_fields=update_fields,
            unique_fields=unique_fields,
        )
        for row in rows:
            row._remember_stored()
        return rows

    bulk_create.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method

    def bulk_update(self, objs: Iterable[_Row], fields: Iterable[str], batch_size: int | None = None) -> int:
        """Update many rows, with both halves of a pair or none, each token sealed for its row.

        :raises ValueError: one is named without the other.
        """
        rows, names = tuple(objs), list(fields)
        self._require_both(names)
        for field in token_fields(self.model):
            if field.name in names:
                refuse_unsaved_places(field, rows, names, self.db)
                for row in rows:
                    field.seal_pending(row)
        updated = super().bulk_update(rows, names, batch_size=batch_size)
        for row in rows:
            row._remember_stored(names)
        return updated

    bulk_update.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method

    def _require_own(self, field: EncryptedTokenField, value: bytes | SealedToken, kid: str) -> None:
        """Refuse a sealed token for any but its own row."""
        sealed = field.get_prep_value(value)
        places = list(self.order_by().values_list("pk", *field.place_fields)[:2])
        if len(places) > 1:
            raise ValueError("A sealed token belongs to one row.")
        for place in places:
            here = field.context_at(place)
            if not isinstance(value, SealedToken) or (value.kid, value.context) != (kid, here):
                SealedToken(sealed, kid, partial(field.context_at, place)).moved_to(here)

    def _require_both(self, names: Iterable[str]) -> None:
        if _with_both(self.model, names) != set(names):
            raise ValueError("A sealed token and the name of its key are updated together only.")
