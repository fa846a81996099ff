"""Compiles a list of allowed system calls to a seccomp filter, a program of classic BPF: :manpage:`seccomp(2)`.

A filter sees the number of a call and its six arguments, and no memory: a path, a socket address or the flags of
``clone3`` can't be a condition.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from coderepos.git.confinement.call_numbers import CALL_NUMBERS

ALLOW: Final = 0x7FFF0000
KILL_PROCESS: Final = 0x80000000
EPERM: Final = 0x00050000 | errno.EPERM
ENOSYS: Final = 0x00050000 | errno.ENOSYS

# Opcodes of linux/bpf_common.h: load a word, mask it, compare it, return.
_LOAD: Final = 0x20
_AND: Final = 0x54
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_EQUAL: Final = 0x35
_RETURN: Final = 0x06

# Offsets in struct seccomp_data; the low half of an argument comes first on little-endian machines.
_NUMBER_OFFSET: Final = 0
_ARCHITECTURE_OFFSET: Final = 4
_ARGUMENTS_OFFSET: Final = 16
_ARGUMENT_BYTES: Final = 8

_X32_BIT: Final = 0x40000000
_INT_BITS: Final = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """How one kind of machine numbers its calls."""

    audit: int
    """``AUDIT_ARCH_*`` of ``linux/audit.h``."""

    column: int
    """Place of its numbers in the table."""

    first_young: int
    """Number from which on calls are younger than the oldest kernel that glibc runs on (3.2; 3.7 on aarch64)."""


X86_64: Final = Architecture(audit=0xC000003E, column=0, first_young=312)
AARCH64: Final = Architecture(audit=0xC00000B7, column=1, first_young=272)


@dataclass(frozen=True, slots=True)
class IsOneOf:
    """Whether some bits of an argument have one of these values; the kernel drops the high half of an ``int``."""

    argument: int
    values: tuple[int, ...]
    bits: int = _INT_BITS


@dataclass(frozen=True, slots=True)
class IsNull:
    """Whether an argument is a null pointer, which takes both halves of it."""

    argument: int


def lacks(argument: int, bits: int) -> IsOneOf:
    """Return the condition that none of these bits is set in an argument."""
    return IsOneOf(argument, (0,), bits & _INT_BITS)


Rule = tuple[IsOneOf | IsNull, ...]
"""Conditions of which all must hold; an empty rule always holds."""

AllowList = Mapping[str, tuple[Rule, ...]]
"""Allowed calls by name, each with rules of which one must hold."""

_Code = list[tuple[int, int, int, int]]


def program(machine: Architecture, allowed: AllowList, *, refusal: int = EPERM) -> bytes:
    """Return the filter as an array of ``struct sock_filter``.

    A young call that is not listed is answered with ``ENOSYS``, as by an older kernel: every libc then takes an older
    way, so that a new one (``clone3``, ``statx``) breaks nothing. A call by another architecture's table, as
    ``int 0x80`` makes it, ends the process; the x32 table is refused whole.

    :param refusal: the verdict on all else: other calls, and arguments that no rule lets pass.
    """
    numbered = [(CALL_NUMBERS[name][machine.column], rules) for name, rules in allowed.items()]
    always = sorted(number for number, rules in numbered if number is not None and () in rules)
    checked = [(number, rules) for number, rules in numbered if number is not None and () not in rules]
    refuse = (_RETURN, 0, 0, refusal)
    code: _Code = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, EPERM),
    ]
    # One verdict for all calls without conditions, passed over where none of them matched.
    for place, number in enumerate(always):
        is_last = place == len(always) - 1
        code.append((_JUMP_EQUAL, len(always) - 1 - place, int(is_last), number))
    code.append((_RETURN, 0, 0, ALLOW))
    for number, rules in checked:
        block = [*(step for rule in rules for step in _rule(rule)), refuse]
        code += [(_JUMP_EQUAL, 0, len(block), number), *block]
    code += [(_JUMP_GREATER_EQUAL, 0, 1, machine.first_young), (_RETURN, 0, 0, ENOSYS), refuse]
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def _rule(rule: Rule) -> _Code:
    """Return code that allows where the rule holds, and goes on behind itself where it does not."""
    code: _Code = [(_RETURN, 0, 0, ALLOW)]
    for condition in reversed(rule):
        offset = _ARGUMENTS_OFFSET + _ARGUMENT_BYTES * condition.argument
        if isinstance(condition, IsNull):
            code = [
                (_LOAD, 0, 0, offset),
                (_JUMP_EQUAL, 0, len(code) + 2, 0),
                (_LOAD, 0, 0, offset + _ARGUMENT_BYTES // 2),
                (_JUMP_EQUAL, 0, len(code), 0),
                *code,
            ]
            continue
        *others, last = condition.values
        code = [
            (_LOAD, 0, 0, offset),
            *([(_AND, 0, 0, condition.bits)] if condition.bits != _INT_BITS else []),
            *((_JUMP_EQUAL, len(others) - place, 0, value) for place, value in enumerate(others)),
            (_JUMP_EQUAL, 0, len(code), last),
            *code,
        ]
    return code
