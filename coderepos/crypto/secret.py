"""Values that hide themselves: what holds a token holds a :class:`Secret`."""

from __future__ import annotations

import hmac
import weakref
from typing import Any, Final, NoReturn

from coderepos.hidden import HiddenText

HIDDEN: Final = "***"
MASK_MIN_CHARACTERS: Final = 20


class Secret:
    """A text that shows nothing of itself in ``str``, ``repr``, ``format`` and pickles, and opens by :meth:`reveal`.

    Living secrets are known to the redactor, which masks their exact values in logs.
    """

    __slots__ = ("__weakref__", "_text")

    def __init__(self, text: str) -> None:
        text = HiddenText(text)
        self._text: Final = text
        if text:
            _living[id(self)] = self

    def reveal(self) -> str:
        """Return the plain text; what keeps it in a variable makes it a :class:`HiddenText` first."""
        return str(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(*(text.encode(errors="surrogatepass") for text in (self._text, other._text)))

    __hash__ = None  # type: ignore[assignment]  # equal secrets would need equal hashes, which leak

    def __str__(self) -> str:
        return HIDDEN

    def __repr__(self) -> str:
        return f"Secret({HIDDEN!r})"

    def __format__(self, format_spec: str) -> str:
        return HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("A secret is never pickled.")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self


_living: weakref.WeakValueDictionary[int, Secret] = weakref.WeakValueDictionary()


def living_secrets() -> set[str]:
    """Return the plain text of every secret that is alive in this process, for the redactor alone."""
    # valuerefs() copies the dictionary at once; values() would fail when another thread makes a secret meanwhile.
    return {secret._text for reference in _living.valuerefs() if (secret := reference()) is not None}


def mask(text: str) -> str:
    """Return a text as users recognise it: ``ghp_1234...cdef`` from 20 characters on, ``***`` below."""
    return f"{text[:8]}...{text[-4:]}" if len(text) >= MASK_MIN_CHARACTERS else HIDDEN
