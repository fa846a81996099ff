"""Rotation of master keys: every sealed token of every table moves under the primary key, while the site runs.

Tokens of an older suite move to the present one: they are bound to the host that their row names now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from django.apps import apps
from django.db import connections, models, transaction
from django.db.models.lookups import Exact

from coderepos.crypto import envelope
from coderepos.crypto.envelope import KeyWrapper
from coderepos.crypto.fields import EncryptedTokenField, SealedToken
from coderepos.crypto.keyring import Keyring, keyring
from coderepos.crypto.message import SUITE_UNBOUND
from coderepos.exceptions import TokenUndecryptable

BATCH_ROWS: Final = 200
IDLE_PASSES: Final = 20
"""Passes over rows that others hold before giving up on them."""

IDLE_SECONDS: Final = 0.25


@dataclass(slots=True)
class Outcome:
    """What became of the rows of one column."""

    moved: int = 0
    undecryptable: list[str] = field(default_factory=list)
    """Primary keys of rows that no key opens; they stay as they are."""


def sealed_columns() -> list[EncryptedTokenField]:
    """Return every sealed column of the installation, whichever app it belongs to."""
    return [
        column
        for model in apps.get_models(include_auto_created=True)
        for column in model._meta.local_concrete_fields
        if isinstance(column, EncryptedTokenField)
    ]


def count_by_kid(column: EncryptedTokenField, *, using: str) -> dict[str, int]:
    """Return how many tokens there are under each key, the most used one first."""
    counts = _sealed(column, using).order_by().values_list(column.kid_field).annotate(n=models.Count("pk"))
    return dict(sorted(counts, key=lambda pair: (-pair[1], pair[0])))


def count_waiting(column: EncryptedTokenField, kid: str, *, using: str) -> int:
    """Return how many tokens are not under the key ``kid``, or not in the present suite."""
    return _waiting(column, kid, using).count()


def rekey(
    column: EncryptedTokenField,
    *,
    using: str,
    dry_run: bool = False,
    batch_rows: int = BATCH_ROWS,
    progress: Callable[[int], None] = lambda rows: None,
) -> Outcome:
    """Wrap every data key of a column with the primary key; a token is opened only where its suite is an older one.

    Such a token is sealed anew for the host that its row names now: whoever runs this trusts the stored URLs.

    Passes over the table follow each other until one finds nothing to do: rows under an old key may be inserted
    meanwhile, and rows that somebody else holds are left for the next pass. It may be stopped at any time, and started
    again; several may run at once.

    :param dry_run: prove that every data key can be unwrapped and wrapped anew, and write nothing.
    :param progress: called with the number of rows after each batch.
    :raises EncryptionUnavailable: a key is currently unavailable; what was moved stays moved.
    """
    ring = keyring()
    primary = ring.require_primary()
    outcome, done, idle = Outcome(), set[str](), 0
    while idle < IDLE_PASSES:
        pending = moved = 0
        for batch in _batches(column, primary.kid, using, batch_rows):
            rows = [row for row in batch if str(row.pk) not in done]
            if not rows:
                continue
            rewrapped = list(_rewrapped(column, rows, ring, primary, outcome, done))
            if dry_run:
                done |= {str(row.pk) for row, _, _ in rewrapped}
                written = len(rewrapped)
            else:
                written = _swap(column, rewrapped, primary.kid, using)
            pending += len(rewrapped) - written
            moved += written
            outcome.moved += written
            progress(len(rows))
        if not moved and not pending:
            break
        idle = 0 if moved else idle + 1
        if not moved:
            time.sleep(IDLE_SECONDS)
    return outcome


def _sealed(column: EncryptedTokenField, using: str) -> models.QuerySet[Any]:
    return column.model._base_manager.using(using).filter(**{f"{column.name}__isnull": False})


def _waiting(column: EncryptedTokenField, kid: str, using: str) -> models.QuerySet[Any]:
    """Return the rows that are not under the key ``kid``, or not in the present suite."""
    elsewhere = ~models.Q(**{column.kid_field: kid})
    if column.origin_field:
        suite = models.Func(models.F(column.name), 5, 1, function="SUBSTR", output_field=models.BinaryField())
        unbound = models.Value(bytes([SUITE_UNBOUND]), output_field=models.BinaryField())
        elsewhere |= models.Q(Exact(suite, unbound))
    return _sealed(column, using).filter(elsewhere)


def _batches(column: EncryptedTokenField, kid: str, using: str, batch_rows: int) -> Iterator[list[models.Model]]:
    """Yield the rows that have to be moved under the key ``kid``, in the order of their primary keys."""
    waiting = (
        _waiting(column, kid, using).only("pk", *column.place_fields, column.name, column.kid_field).order_by("pk")
    )
    batch = list(waiting[:batch_rows])
    while batch:
        yield batch
        batch = list(waiting.filter(pk__gt=batch[-1].pk)[:batch_rows])


def _rewrapped(
    column: EncryptedTokenField,
    rows: list[models.Model],
    ring: Keyring,
    primary: KeyWrapper,
    outcome: Outcome,
    done: set[str],
) -> Iterator[tuple[models.Model, SealedToken, bytes]]:
    """Yield row, stored token and new bytes; no lock is held while a key management service is asked."""
    for row in rows:
        stored: SealedToken = getattr(row, column.attname)
        try:
            old = ring.require(stored.kid)
            new = envelope.renewed(stored.sealed, old=old, new=primary, context=stored.context)
        except TokenUndecryptable:
            outcome.undecryptable.append(str(row.pk))
            done.add(str(row.pk))
            continue
        yield row, stored, new


def _swap(
    column: EncryptedTokenField, rewrapped: list[tuple[models.Model, SealedToken, bytes]], kid: str, using: str
) -> int:
    """Write new bytes where the old ones are still stored, and return for how many rows; locked ones are left out."""
    manager = column.model._base_manager.using(using)
    sealed = models.F(column.name)
    written = 0
    pks = [row.pk for row, _, _ in rewrapped]
    with transaction.atomic(using=using):
        if connections[using].features.has_select_for_update_skip_locked:
            free = manager.filter(pk__in=pks).order_by("pk").select_for_update(skip_locked=True, of=("self",))
            pks = list(free.values_list("pk", flat=True))
        for row, stored, new in rewrapped:
            if row.pk in pks:
                unchanged = Exact(sealed, models.Value(stored.sealed, output_field=models.BinaryField()))
                written += manager.filter(unchanged, pk=row.pk).update(**{column.name: new, column.kid_field: kid})
    return written
