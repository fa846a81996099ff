"""A call in a second process: how it ends, and what becomes of it where no process can be started."""

from __future__ import annotations

import errno
import os
import resource
import signal

import pytest

from coderepos.git.process.fork import Forked
from tests.support.users import NOBODY, forked

pytestmark = pytest.mark.usefixtures("no_children_left")


def test_a_call_that_returns_succeeds() -> None:
    """The second process is another one, and is reaped."""
    with Forked(lambda: None) as second:
        assert second.has_started
        assert second.succeeded()
        assert second.os_error() is None
    assert second.has_ended()


def test_the_number_of_an_error_comes_back() -> None:
    """Of other exceptions it is only known that there was one."""

    def fail(error: BaseException) -> None:
        raise error

    for error, code in [(OSError(errno.ENOSPC, ""), errno.ENOSPC), (MemoryError(), errno.ENOMEM), (ValueError(), None)]:
        with Forked(lambda error=error: fail(error)) as second:  # type: ignore[misc]  # bound at once
            assert not second.succeeded()
            told = second.os_error()
            assert (told and told.errno) == code


def test_a_call_that_is_not_waited_for_is_stopped() -> None:
    """The end of the context ends it."""
    with Forked(signal.pause) as second:
        assert not second.has_ended()
    assert not second.succeeded()


def test_a_process_that_can_not_be_started_counts_as_failed() -> None:
    """A machine or a user may have as many processes as is allowed."""

    def attempt() -> tuple[bool, bool, int | None]:
        if not os.geteuid():
            os.setresuid(NOBODY, NOBODY, NOBODY)  # the bound does not hold for root
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        with Forked(lambda: None) as second:
            error = second.os_error()
            return second.has_started, second.has_ended(), error.errno if error else None

    assert forked(attempt) == (False, True, errno.EAGAIN)
