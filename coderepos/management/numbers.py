"""Numbers among the arguments of commands, by the one rule that settings are checked by too."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Final

from coderepos.setting_types import Number

SECONDS_OF_A_YEAR: Final = 31_536_000


def number(rule: Number) -> Callable[[str], float]:
    """Return what reads an argument of a command: a number that a rule allows.

    What it returns raises :class:`~argparse.ArgumentTypeError`, by which the parser says which argument it is.
    """

    def read(text: str) -> float:
        try:
            value = int(text) if rule.whole else float(text)
        except ValueError:
            value = float("nan")
        if fault := rule.fault(lambda: value):
            raise ArgumentTypeError(f"{text!r}: {fault.message}")
        return value

    return read


def seconds(*, least: float, most: float = SECONDS_OF_A_YEAR) -> Callable[[str], float]:
    """Return what reads a number of seconds between two bounds, both of them allowed."""
    return number(Number(least=least, most=most, unit="seconds"))
