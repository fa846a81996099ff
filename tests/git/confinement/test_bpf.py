"""The filters, run by an interpreter of classic BPF for every machine that they are written for."""

from __future__ import annotations

import struct

import pytest

from coderepos.git.confinement.allow_lists import BUILD, FETCH, SEARCH
from coderepos.git.confinement.bpf import (
    AARCH64,
    ALLOW,
    ENOSYS,
    EPERM,
    KILL_PROCESS,
    X86_64,
    AllowList,
    Architecture,
    program,
)
from coderepos.git.confinement.call_numbers import CALL_NUMBERS

MACHINES = [X86_64, AARCH64]
LISTS = [FETCH, BUILD, SEARCH]
HIGH_HALF = 1 << 32
SOCKET = "socket"


def verdict(code: bytes, number: int, audit: int, *arguments: int) -> int:
    """Run classic BPF over one ``struct seccomp_data`` as the kernel does."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = list(struct.iter_unpack("=HBBI", code))
    place = accumulator = 0
    while True:
        value: int
        opcode, if_true, if_false, value = steps[place]
        place += 1
        if opcode == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif opcode == 0x54:
            accumulator &= value
        elif opcode in (0x15, 0x35):
            holds = accumulator == value if opcode == 0x15 else accumulator >= value
            place += if_true if holds else if_false
        else:
            assert opcode == 0x06
            return value


def ask(machine: Architecture, allowed: AllowList, call: str | int, *arguments: int, refusal: int = EPERM) -> int:
    """Return the verdict of a child's filter on one call."""
    number = call if isinstance(call, int) else CALL_NUMBERS[call][machine.column]
    assert number is not None
    return verdict(program(machine, allowed, refusal=refusal), number, machine.audit, *arguments)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("allowed", LISTS)
def test_what_is_not_listed_is_refused(machine: Architecture, allowed: AllowList) -> None:
    """Of all calls by number the listed ones pass; others are refused, and the young ones as if they did not exist."""
    code = program(machine, allowed)
    names = {CALL_NUMBERS[name][machine.column]: name for name in allowed}
    for number in range(700):
        for filler in (0, 2**64 - 1):
            found = verdict(code, number, machine.audit, *[filler] * 6)
            if number not in names:
                assert found == (ENOSYS if number >= machine.first_young else EPERM), number
            elif () in allowed[names[number]]:
                assert found == ALLOW, names[number]
            else:
                assert found in (ALLOW, EPERM), names[number]


ALLOWED_IN_FETCH = [
    (SOCKET, 2, 0o2000001, 6),
    (SOCKET, 10, 0o2004002, 17),
    (SOCKET, 2, 2, 0),
    ("sendto", 3, 1, 1, 0x4000, 0),
    ("sendmmsg", 3, 1, 2, 0x4000),
    ("clone", 0x3D0F00),
    ("openat", 0, 0, 0o2000000),
    ("prlimit64", 0, 7, 0, 9),
    ("mmap", 0, 1, 3),
    ("getsockopt", 3, 1, 4),
    ("setsockopt", 3, 6, 1),
    ("setsockopt", 3, 0, 11),
    ("setsockopt", 3, 41, 25),
    ("fcntl", 3, 1),
    ("ioctl", 3, 0x5421),
    ("sched_getaffinity", 0),
    ("prctl", 15),
]

REFUSED_IN_FETCH = [
    (SOCKET, 2, 1, 262),  # MPTCP
    (SOCKET, 1, 1, 0),  # UNIX
    (SOCKET, 16, 3, 0),  # netlink
    (SOCKET, 40, 1, 0),  # vsock
    (SOCKET, 2, 1, 17),
    (SOCKET, 2, 2, 6),
    (SOCKET, 2, 3, 0),  # raw
    (SOCKET, 2, 2, 1),  # ping
    (SOCKET, 2, 0o20000001, 0),
    ("sendto", 3, 1, 1, 0x20000000, 0),  # TCP Fast Open
    ("sendto", 3, 1, 1, 0, 8),
    ("sendto", 3, 1, 1, 0, HIGH_HALF),  # a pointer whose low half is null
    ("sendmmsg", 3, 1, 2, 0x20000000),
    ("clone", 0x1200011),
    ("clone", 0x3D0F00 | 0x10000000),  # CLONE_NEWUSER
    *(("openat", 0, 0, flags) for flags in (1, 2, 0o100, 0o1000, 0o10000000, 0o20200000)),
    ("prlimit64", 0, 7, HIGH_HALF, 9),
    ("prlimit64", 5, 7, 0, 9),
    ("mmap", 0, 1, 7),
    ("mprotect", 0, 1, 5),
    ("getsockopt", 3, 6, 4),
    ("setsockopt", 3, 6, 11),
    ("setsockopt", 3, 1, 26),  # SO_ATTACH_FILTER
    ("setsockopt", 3, 6, 30),  # TCP_FASTOPEN_CONNECT
    ("setsockopt", 3, 6, 31),  # TCP_ULP
    ("fcntl", 3, 8),  # F_SETOWN
    ("fcntl", 3, 4),  # F_SETFL
    ("ioctl", 3, 0x5412),  # TIOCSTI
    ("sched_getaffinity", 1),
    ("prctl", 1, 9),
]

ALLOWED_IN_BUILD = [
    ("clone", 0x1200011),
    ("openat", 3, 0, 0o102, 0o600),
    ("openat", 3, 0, 0, 0o4755),  # without O_CREAT the mode is not read
    ("fchmod", 0, 0o500),
    ("mkdirat", 0, 0, 0o500),
    ("prctl", 1, 9),
    ("prlimit64", 0, 7, 0, 9),
]

REFUSED_IN_BUILD = [
    *(("clone", flags) for flags in (0x3D0F00, 0x10000011, 0x1200011 | 0x10000000, 0x4111)),
    ("openat", 3, 0, 0o102, 0o4755),
    ("openat", 3, 0, 0o10000000),
    ("openat", 3, 0, 0o20200002, 0o600),
    ("fchmod", 0, 0o4500),
    ("mkdirat", 0, 0, 0o2500),
    ("prctl", 1, 0),
    ("prctl", 4, 1),
    ("prctl", 1, 9 | 0x100),
    ("prlimit64", 0, 7, 8),
    ("mmap", 0, 1, 7),
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("allowed", "calls", "expected"),
    [
        (FETCH, ALLOWED_IN_FETCH, ALLOW),
        (FETCH, REFUSED_IN_FETCH, EPERM),
        (BUILD, ALLOWED_IN_BUILD, ALLOW),
        (BUILD, REFUSED_IN_BUILD, EPERM),
    ],
)
def test_arguments_decide(
    machine: Architecture, allowed: AllowList, calls: list[tuple[str, ...]], expected: int
) -> None:
    """Where a call can do harm and is needed, its arguments are looked at; the high half of an ``int`` is not."""
    for name, *arguments in calls:
        assert ask(machine, allowed, name, *map(int, arguments)) == expected, (name, arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_high_halves_of_integers_do_not_count(machine: Architecture) -> None:
    """The kernel drops them, so that they neither open nor close anything."""
    assert ask(machine, FETCH, SOCKET, 2 | HIGH_HALF, 1, HIGH_HALF) == ALLOW
    assert ask(machine, FETCH, SOCKET, 1 | HIGH_HALF, 1, 0) == EPERM
    assert ask(machine, BUILD, "fchmod", 3, 0o4500 | HIGH_HALF) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "name", [SOCKET, "openat", "clone", "connect", "fchmod", "unlinkat", "wait4", "prctl", "ioctl"]
)
def test_the_search_can_do_nothing(machine: Architecture, name: str) -> None:
    """It reads a pipe: no file, no socket, no process."""
    assert ask(machine, SEARCH, name) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("allowed", LISTS)
def test_another_table_of_calls_ends_the_process(machine: Architecture, allowed: AllowList) -> None:
    """Calls by the 32-bit table of the same machine never get past the filter; those of x32 are refused."""
    code = program(machine, allowed)

    assert verdict(code, 20, 0x40000003) == KILL_PROCESS
    assert verdict(code, 20, 0x40000028) == KILL_PROCESS
    assert verdict(code, 0x40000000, machine.audit) == EPERM
    assert verdict(code, 0x40000000 + 39, machine.audit) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_the_refusal_can_be_another_one(machine: Architecture) -> None:
    """Where refused calls end the process, young ones do not: libc tries them first."""
    assert ask(machine, FETCH, 170, refusal=KILL_PROCESS) == KILL_PROCESS
    assert ask(machine, FETCH, SOCKET, 1, 1, 0, refusal=KILL_PROCESS) == KILL_PROCESS
    assert ask(machine, FETCH, 435, refusal=KILL_PROCESS) == ENOSYS
    assert ask(machine, FETCH, "read", refusal=KILL_PROCESS) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("allowed", LISTS)
def test_every_jump_stays_inside_and_leads_forwards(machine: Architecture, allowed: AllowList) -> None:
    """Jumps of classic BPF reach 255 instructions, and the kernel runs the filter on every call."""
    steps = list(struct.iter_unpack("=HBBI", program(machine, allowed)))

    assert len(steps) < 200
    for place, (opcode, if_true, if_false, _) in enumerate(steps):
        if opcode in (0x15, 0x35):
            assert place + 1 + max(if_true, if_false) < len(steps)
    assert steps[-1][0] == 0x06
