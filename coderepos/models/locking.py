"""Transactions that hold rows others wait for, and give them back when their process freezes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from django.db import OperationalError, connections, transaction

IDLE_SECONDS: Final = 20
"""How long a process may stand still inside such a transaction before PostgreSQL ends its session.

Far more than two statements are apart, and well below a lease: a stopped process must not keep a job from the others.
"""

WAIT_SECONDS: Final = 5
"""How long a statement in such a transaction waits for a row that somebody else holds, before it fails."""


_LOCK_NOT_AVAILABLE: Final = "55P03"
"""SQLSTATE of PostgreSQL, appendix A of its manual."""


class RowHeld(OperationalError):
    """Somebody else held a row for longer than :data:`WAIT_SECONDS`."""


@contextmanager
def row_transaction(using: str) -> Iterator[None]:
    """Run a ``with`` block in a transaction on the database ``using``.

    On PostgreSQL a process that freezes inside loses its session after :data:`IDLE_SECONDS`, and with it the locks, and
    one that meets a frozen one gets a :class:`RowHeld` after :data:`WAIT_SECONDS` instead of waiting. SQLite has
    nothing of the kind, so the block must hold nothing but statements: no file system, no network.

    :raises RowHeld: a row that is needed was held by somebody else all the time.
    """
    try:
        with transaction.atomic(using=using):
            connection = connections[using]
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute(
                        f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s';"
                        f"SET LOCAL lock_timeout = '{WAIT_SECONDS}s'"
                    )
            yield
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise RowHeld(*error.args) from error
        raise
