"""Types of the values in ``settings.CODEREPOS``: what each accepts, and what to say about anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Fault(NamedTuple):
    """What is wrong with a value; none of it is repeated where it may be a secret."""

    message: str
    """What the value must be, to go after the name of its key."""

    hint: str
    """What to do about it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """A number between two bounds, both of them allowed."""

    least: float
    most: float
    unit: str
    """What is counted, in the plural."""

    optional: bool = False
    """Whether it may be ``None``."""

    whole: bool = False
    """Whether it has no fraction."""

    def fault(self, read: Callable[[], object]) -> Fault | None:
        """Return what is wrong with the value that ``read`` returns; ``None`` where nothing is."""
        value = read()
        if (value is None and self.optional) or self._is_one(value):
            return None
        kind = "a whole number" if self.whole else "a number"
        bounds = f"from {self.least:,} to {self.most:,} ({self.unit})"
        return Fault(f"must be {kind} {bounds}{' or None' if self.optional else ''}.", f"It is {value!r}.")

    def _is_one(self, value: object) -> bool:
        # NaN is within no bounds, and infinity beyond all.
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return self.least <= value <= self.most


def require_number(name: str, value: object, rule: Number) -> None:
    """Refuse a value that is none, of whatever type.

    :raises ValueError: with its name and what it must be.
    """
    if fault := rule.fault(lambda: value):
        raise ValueError(f"{name} {fault.message} {fault.hint}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A text."""

    optional: bool = False
    """Whether it may be ``None``."""

    def fault(self, read: Callable[[], object]) -> Fault | None:
        """Return what is wrong with the value that ``read`` returns; ``None`` where nothing is."""
        if isinstance(read(), str) or (self.optional and read() is None):
            return None
        return Fault(f"must be a string{' or None' if self.optional else ''}.", "Write it in quotes.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate(Text):
    """A text such as ``60/hour``; :func:`coderepos.access.parse_rate` reads it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextList:
    """A list of texts."""

    secret: bool = False
    """Whether the texts are secrets."""

    def fault(self, read: Callable[[], object]) -> Fault | None:
        """Return what is wrong with the value that ``read`` returns; ``None`` where nothing is."""
        # No variable: some of these are keys, and error reports print variables.
        if is_list(read) and all(issubclass(kind, str) for kind in map(type, read())):  # type: ignore[call-overload]
            return None
        return Fault("must be a list of strings.", "Write ['one', 'two'], or ['one'] for a single item.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hosts(TextList):
    """A list of ``host`` or ``host:port``."""

    wildcards: bool = False
    """Whether ``*.example.org`` is allowed, for all subdomains."""

    port_required: bool = False
    """Whether each host has to name its port."""

    def accepts(self, entry: str) -> bool:
        """Return whether ``entry`` names a host."""
        host, _, port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
        if "*" in host and not (self.wildcards and host.startswith("*.") and "*" not in host[1:]):
            return False
        if (port and not port.isdecimal()) or (self.port_required and not port):
            return False
        return bool(host) and "/" not in entry and "@" not in entry and not any(c.isspace() for c in entry)


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that is, or may hold, a secret, or ``None``; a check of its own looks at what it means."""

    def fault(self, read: Callable[[], object]) -> Fault | None:
        """Return ``None``: the check of its own says what is wrong with any value."""
        return None


SettingType = Number | Text | TextList | Secret


def is_list(read: Callable[[], object]) -> bool:
    """Return whether ``read`` returns a list, or anything that is read like one."""
    return isinstance(read(), Sequence) and not isinstance(read(), str | bytes)
