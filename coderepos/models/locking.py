"""Transactions that lock rows others wait for, and release them when their process freezes."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from django.db import OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from coderepos.exceptions import BUSY_SECONDS, DatabaseBusy
from coderepos.models.database import alias

IDLE_SECONDS: Final = 20
"""How long a process may be idle inside such a transaction before PostgreSQL ends its session.

Far longer than two statements are apart, and well below a lease: a stopped process must not keep a job from others.
"""

WAIT_SECONDS: Final = 5
"""How long a statement in such a transaction waits for a locked row before it fails."""

_SET_LOCAL: Final = "SELECT " + ", ".join(["current_setting(%s)", "set_config(%s, %s, true)"] * 2)
_LOCK_NOT_AVAILABLE: Final = "55P03"
_BUSY_STATES: Final = (_LOCK_NOT_AVAILABLE, "40P01", "40001")
"""SQLSTATEs of PostgreSQL, appendix A of its manual: a lock that took too long, a deadlock, a serialization failure."""

_BUSY_CODES: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class RowHeld(OperationalError):
    """Another transaction held a row for longer than :data:`WAIT_SECONDS`."""


def is_busy(error: OperationalError) -> bool:
    """Return whether a database error says that another transaction was in the way, so that a retry may succeed."""
    cause = error.__cause__
    code = getattr(cause, "sqlite_errorcode", None)
    return (
        isinstance(error, RowHeld)
        or getattr(cause, "sqlstate", None) in _BUSY_STATES
        or (code is not None and code & 0xFF in _BUSY_CODES)  # extended codes have the primary one in the low byte
    )


@contextmanager
def busy_reported() -> Iterator[None]:
    """Run a ``with`` block, or a decorated function, and give a busy database the error that callers know.

    :raises DatabaseBusy: another transaction was in the way.
    """
    try:
        yield
    except OperationalError as error:
        if not is_busy(error):
            raise
        raise DatabaseBusy(retry_after_seconds=BUSY_SECONDS) from error


@contextmanager
def row_transaction(using: str, *, read_committed: bool = False) -> Iterator[None]:
    """Run a ``with`` block in a transaction on the database ``using``.

    On PostgreSQL a process that freezes inside loses its session, and with it the locks, after :data:`IDLE_SECONDS`;
    one that waits for a frozen one gets :class:`RowHeld` after :data:`WAIT_SECONDS`. A transaction of the host around
    it keeps its own time-outs. SQLite has neither, so the block must contain statements only: no file system, no
    network.

    :param read_committed: whether each statement has to see what was committed before it, whatever the host's isolation
        level is; inside of a transaction of the host its level stays.
    :raises RowHeld: another transaction held a row that is needed.
    """
    try:
        connection = connections[using]
        is_nested = connection.in_atomic_block
        with transaction.atomic(using=using):
            if connection.vendor != "postgresql":
                yield
                return
            if read_committed and not is_nested:
                with connection.cursor() as cursor:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            ours = {"idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s", "lock_timeout": f"{WAIT_SECONDS}s"}
            before = _set_local(connection, ours)
            yield
            # A rollback resets them with the savepoint.
            if is_nested and before != ours and not connection.needs_rollback:
                _set_local(connection, before)
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise RowHeld(*error.args) from error
        raise


def _set_local(connection: BaseDatabaseWrapper, values: Mapping[str, str]) -> dict[str, str]:
    """Set parameters until the end of the transaction, and return the values that they had."""
    with connection.cursor() as cursor:
        cursor.execute(_SET_LOCAL, [part for name, value in values.items() for part in (name, name, value)])
        previous: tuple[str, ...] = cursor.fetchone()
    return dict(zip(values, previous[::2], strict=True))


def lock_names(names: Iterable[str]) -> None:
    """Lock names in our database until the end of the transaction, waiting for whoever has them.

    On SQLite nothing is locked: one transaction writes at a time, so the caller's own write has to come first.
    """
    connection = connections[alias()]
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        # In one order for all, or two callers wait for each other.
        for name in sorted(names):
            number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
