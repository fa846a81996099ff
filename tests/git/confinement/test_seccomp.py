"""Where a filter is installed, and what is said where none is."""

from __future__ import annotations

import sys

import pytest

from coderepos.git.confinement import seccomp
from coderepos.git.confinement.allow_lists import FETCH
from coderepos.git.confinement.bpf import AARCH64, X86_64


def test_unknown_machines_have_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the numbers of the calls are not known, nothing is installed, and that is said."""
    assert seccomp.architecture("x86_64") is X86_64
    assert seccomp.architecture("aarch64") is AARCH64
    assert seccomp.architecture("riscv64") is None

    monkeypatch.setattr(seccomp, "architecture", lambda: None)

    assert not seccomp.available()
    assert seccomp.install(FETCH) is False


def test_a_32_bit_interpreter_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 32-bit Python on a 64-bit kernel would be ended by a filter for the other table."""
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)

    assert seccomp.architecture("x86_64") is None


def refusing(option_refused: int) -> object:
    """Return a prctl that refuses one option."""

    def prctl(option: int, *rest: object) -> int:
        if option == option_refused:
            raise OSError(22, "prctl: Invalid argument")
        return 0

    return prctl


def test_a_refusal_of_the_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that has seccomp and refuses the program is an error, not a silent loss of the level."""
    monkeypatch.setattr(seccomp, "prctl", refusing(22))

    with pytest.raises(OSError, match="Invalid argument"):
        seccomp.install(FETCH)


def test_a_kernel_without_filters_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The level without seccomp is one of its own."""
    monkeypatch.setattr(seccomp, "prctl", refusing(21))

    assert not seccomp.available()
    assert seccomp.install(FETCH) is False
