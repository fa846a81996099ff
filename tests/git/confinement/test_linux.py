"""The calls that ctypes makes."""

from __future__ import annotations

import ctypes
import os
import signal

import pytest

from coderepos.git.confinement import linux


def test_an_orphan_ends_before_it_works() -> None:
    """A child whose parent is gone before it could bind itself to it ends at once."""
    child = os.fork()
    if not child:
        linux.die_with_parent(os.getppid() + 1)
        os._exit(0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_a_child_binds_itself_to_its_living_parent() -> None:
    """The kernel is asked for SIGKILL, and a child whose parent lives goes on."""
    child = os.fork()
    if not child:
        linux.die_with_parent(os.getppid())
        asked = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(asked), 0, 0, 0)
        os._exit(asked.value)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_failing_calls_are_errors() -> None:
    """What the kernel refuses is never taken for done."""
    with pytest.raises(OSError, match="prctl: Invalid argument"):
        linux.prctl(-1, 0)
    with pytest.raises(OSError, match="syncfs: Bad file descriptor"):
        linux.sync_filesystem(-1)
    assert linux.syscall(-1) < 0


def test_capabilities_that_can_not_be_dropped_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child never goes on with rights that it was to lose."""
    asked: list[bytes] = []

    class Refusing:
        def capset(self, header: bytes, data: bytes) -> int:
            asked.append(data)
            return -1

    monkeypatch.setattr(linux, "_libc", Refusing())

    with pytest.raises(OSError, match="capset"):
        linux.drop_capabilities()
    assert asked == [bytes(24)]


def test_a_file_system_without_syncfs_is_synced_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the C library lacks the call, everything is synced."""
    synced: list[bool] = []
    monkeypatch.setattr(linux, "_libc", object())
    monkeypatch.setattr(os, "sync", lambda: synced.append(True))

    linux.start_writeback(-1)
    linux.sync_filesystem(-1)

    assert synced == [True]


@pytest.mark.parametrize("has_proc", [True, False])
def test_a_process_is_closed_to_others(has_proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that it forks; and the memory killer is told to choose it where that is possible."""

    def refuse(path: str, *rest: object, **more: object) -> None:
        raise FileNotFoundError(path)

    if not has_proc:
        monkeypatch.setattr("builtins.open", refuse)
    child = os.fork()
    if not child:
        linux.close_to_others()
        grandchild = os.fork()
        is_dumpable = linux.prctl(3)  # PR_GET_DUMPABLE
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) + is_dumpable if grandchild else is_dumpable)
    score = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert score == 0
