"""Transactions that lock rows: their time-outs, which end with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connections, transaction

from coderepos.models import alias
from coderepos.models.locking import IDLE_SECONDS, WAIT_SECONDS, row_transaction

NAMES = ("idle_in_transaction_session_timeout", "lock_timeout")
OURS = (f"{IDLE_SECONDS}s", f"{WAIT_SECONDS}s")
HOSTS = ("7s", "3s")


def time_outs() -> tuple[str, ...]:
    """Return the time-outs in force."""
    with connections[alias()].cursor() as cursor:
        cursor.execute("SELECT current_setting(%s), current_setting(%s)", NAMES)
        found: tuple[str, ...] = cursor.fetchone()
    return found


@pytest.fixture
def host_transaction(transactional_db: None) -> Iterator[None]:
    """Inside a transaction of the host with time-outs of its own, where the database has any."""
    if connections[alias()].vendor != "postgresql":
        pytest.skip("SQLite has no such time-outs")
    with transaction.atomic(using=alias()):
        with connections[alias()].cursor() as cursor:
            for name, value in zip(NAMES, HOSTS, strict=True):
                cursor.execute(f"SET LOCAL {name} = '{value}'")
        yield


@pytest.mark.usefixtures("host_transaction")
def test_a_transaction_of_the_host_keeps_its_time_outs() -> None:
    with row_transaction(alias()):
        assert time_outs() == OURS
        with row_transaction(alias()):
            assert time_outs() == OURS
        assert time_outs() == OURS
    assert time_outs() == HOSTS


@pytest.mark.usefixtures("host_transaction")
def test_an_error_leaves_the_time_outs_of_the_host() -> None:
    with pytest.raises(ZeroDivisionError), row_transaction(alias()):
        raise ZeroDivisionError
    assert time_outs() == HOSTS
