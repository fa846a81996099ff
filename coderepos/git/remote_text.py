"""Text of the remote as users may see it: masked, printable and short.

A server can repeat the credentials that it was given, in whatever form. What is not certain to be harmless is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from coderepos.exceptions import RemoteError
from coderepos.git.text import is_display_text
from coderepos.secret_forms import secret_forms

REMOTE_TEXT_CHARACTERS: Final = 200
"""Longest text of a remote that is shown or stored."""

MASK: Final = "***"

_MASKED_CHARACTERS: Final = 6
"""Shorter secrets are found in any text: user names such as ``git`` stay; a text with such a password goes."""

_WINDOW_CHARACTERS: Final = 12
"""So many characters of a secret in a row give it away, with whatever stands between them."""


def remote_error(text: bytes, secrets: Sequence[str]) -> RemoteError:
    """Return the error for what a remote reported.

    :param secrets: user name and password that it was asked with; they may be empty.
    """
    return RemoteError(remote_text=harmless_text(text, secrets))


def is_harmless(text: bytes, secrets: Sequence[str]) -> bool:
    """Return whether text of a remote may be shown as it is."""
    return harmless_text(text, secrets) == text.decode("utf-8", "replace")


def harmless_text(text: bytes, secrets: Sequence[str]) -> str:
    """Return text of a remote without secrets, printable and at most 200 characters; empty where that is not certain.

    :param secrets: user name and password that it was asked with; they may be empty.
    """
    shown = text.decode("utf-8", "replace")
    shown = " ".join("".join(char if is_display_text(char) else " " for char in shown).split())
    if secrets and secrets[-1] and secrets[-1] in shown and len(secrets[-1]) < _MASKED_CHARACTERS:
        return ""
    hidden = [secret for secret in (":".join(secrets), *secrets) if len(secret) >= _MASKED_CHARACTERS]
    return (_masked(shown, hidden) if hidden else shown)[:REMOTE_TEXT_CHARACTERS].rstrip()


def _masked(text: str, secrets: Sequence[str]) -> str:
    """Mask every form of the secrets; return nothing where a good part of one is still there."""
    forms = sorted({form for secret in secrets for form in secret_forms(secret)}, key=len, reverse=True)
    for form in forms:
        text = re.sub(re.escape(form), MASK, text, flags=re.IGNORECASE)
    squeezed = _squeezed(text)
    for form in filter(lambda form: len(form) >= _MASKED_CHARACTERS, map(_squeezed, forms)):
        size = min(_WINDOW_CHARACTERS, len(form))
        windows = {form[start : start + size] for start in range(len(form) - size + 1)}
        if any(window in side for window in windows for side in (squeezed, squeezed[::-1])):
            return ""
    return text


def _squeezed(text: str) -> str:
    return "".join(filter(str.isalnum, text)).lower()
