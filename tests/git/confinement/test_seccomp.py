"""The filter program, run by an interpreter of classic BPF for every machine that it is written for."""

from __future__ import annotations

import struct
import sys

import pytest

from coderepos.git.confinement import seccomp
from coderepos.git.confinement.seccomp import AARCH64, ALWAYS, NETWORK, SIGNALS, X86_64, Architecture

ALLOWED = 0x7FFF0000
EPERM = 0x00050001
KILLED = 0x80000000


def verdict(program: bytes, number: int, audit: int, *arguments: int) -> int:
    """Run classic BPF over one ``struct seccomp_data`` as the kernel does."""
    data = struct.pack("=iIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    code = list(struct.iter_unpack("=HBBI", program))
    place = accumulator = 0
    while True:
        value: int
        opcode, if_true, if_false, value = code[place]
        place += 1
        if opcode == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif opcode in (0x15, 0x35):
            holds = accumulator == value if opcode == 0x15 else accumulator >= value
            place += if_true if holds else if_false
        else:
            assert opcode == 0x06
            return value


@pytest.mark.parametrize("machine", [X86_64, AARCH64])
@pytest.mark.parametrize("refused", [ALWAYS, ALWAYS | NETWORK, ALWAYS | NETWORK | SIGNALS])
def test_exactly_the_refused_calls_are_refused(machine: Architecture, refused: frozenset[str]) -> None:
    """Every call of the table is refused where it is asked for, and no other call is."""
    program = seccomp.program(machine, refused)
    expected = {number for name in refused for number in [seccomp._NUMBERS[name][machine.column]] if number is not None}
    expected |= {number for name in ["prlimit64"] for number in [seccomp._NUMBERS[name][machine.column]] if number}

    found = {number for number in range(600) if verdict(program, number, machine.audit, 4711) == EPERM}

    assert found == expected


@pytest.mark.parametrize("machine", [X86_64, AARCH64])
def test_limits_of_another_process_are_refused(machine: Architecture) -> None:
    """A child may ask for its own limits, and not for those of another process."""
    program = seccomp.program(machine, ALWAYS)
    number = seccomp._NUMBERS["prlimit64"][machine.column]
    assert number is not None

    assert verdict(program, number, machine.audit, 0) == ALLOWED
    assert verdict(program, number, machine.audit, 1) == EPERM


@pytest.mark.parametrize("machine", [X86_64, AARCH64])
def test_another_table_of_calls_ends_the_process(machine: Architecture) -> None:
    """Calls by the 32-bit table of the same machine never get past the filter."""
    program = seccomp.program(machine, ALWAYS)

    assert verdict(program, 20, 0x40000003) == KILLED
    assert verdict(program, 20, 0x40000028) == KILLED


def test_x32_is_refused() -> None:
    """The x32 table, which shares the architecture of x86_64, is refused whole."""
    program = seccomp.program(X86_64, ALWAYS)

    assert verdict(program, 0x40000000, X86_64.audit) == EPERM
    assert verdict(program, 0x40000000 + 39, X86_64.audit) == EPERM
    assert verdict(program, 39, X86_64.audit) == ALLOWED


def test_the_filter_is_short() -> None:
    """Jumps of classic BPF reach 255 instructions, and the kernel runs the filter on every call."""
    assert len(seccomp.program(X86_64, ALWAYS | NETWORK | SIGNALS)) // 8 < 100


def test_unknown_machines_have_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the numbers of the calls are not known, nothing is installed, and that is said."""
    assert seccomp.architecture("x86_64") is X86_64
    assert seccomp.architecture("aarch64") is AARCH64
    assert seccomp.architecture("riscv64") is None

    monkeypatch.setattr(seccomp, "architecture", lambda: None)

    assert not seccomp.available()
    assert seccomp.install(ALWAYS) is False


def test_a_32_bit_interpreter_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 32-bit Python on a 64-bit kernel would be ended by a filter for the other table."""
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)

    assert seccomp.architecture("x86_64") is None


def test_a_refusal_of_the_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that has seccomp and refuses the program is an error, not a silent loss of the level."""
    monkeypatch.setattr(seccomp, "_prctl", lambda option, *rest: 0 if option == 21 else -22)

    with pytest.raises(OSError, match="Invalid argument"):
        seccomp.install(ALWAYS)
