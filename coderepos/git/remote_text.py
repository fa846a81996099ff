"""Makes text from the remote fit for users: printable, short, and without the credentials.

A server may echo the credentials of the request in any form. Text that may still contain a part of them is dropped.
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
"""Shorter secrets occur in any text: user names such as ``git`` stay, a text with such a password is dropped."""

_WINDOW_CHARACTERS: Final = 12
"""A text is dropped if it contains this many consecutive letters and digits of a secret."""


def remote_error(text: bytes, secrets: Sequence[str]) -> RemoteError:
    """Return the error for a message of the remote.

    :param secrets: user name and password of the request; they may be empty.
    """
    return RemoteError(remote_text=harmless_text(text, secrets))


def is_harmless(text: bytes, secrets: Sequence[str]) -> bool:
    """Return whether text from the remote may be shown unchanged."""
    return harmless_text(text, secrets) == text.decode("utf-8", "replace")


def harmless_text(text: bytes, secrets: Sequence[str]) -> str:
    """Return text from the remote with secrets masked, printable, and at most 200 characters; empty if in doubt.

    :param secrets: user name and password of the request; they may be empty.
    """
    shown = text.decode("utf-8", "replace")
    shown = " ".join("".join(char if is_display_text(char) else " " for char in shown).split())
    if secrets and secrets[-1] and secrets[-1] in shown and len(secrets[-1]) < _MASKED_CHARACTERS:
        return ""
    hidden = [secret for secret in (":".join(secrets), *secrets) if len(secret) >= _MASKED_CHARACTERS]
    return (_masked(shown, hidden) if hidden else shown)[:REMOTE_TEXT_CHARACTERS].rstrip()


def _masked(text: str, secrets: Sequence[str]) -> str:
    """Mask every form of the secrets; return an empty text if a good part of one is still there."""
    forms = sorted({form for secret in secrets for form in secret_forms(secret)}, key=len, reverse=True)
    for form in forms:
        text = re.sub(re.escape(form), MASK, text, flags=re.IGNORECASE)
    compact = _letters_and_digits(text)
    for form in filter(lambda form: len(form) >= _MASKED_CHARACTERS, map(_letters_and_digits, forms)):
        size = min(_WINDOW_CHARACTERS, len(form))
        windows = {form[start : start + size] for start in range(len(form) - size + 1)}
        if any(window in side for window in windows for side in (compact, compact[::-1])):
            return ""
    return text


def _letters_and_digits(text: str) -> str:
    return "".join(filter(str.isalnum, text)).lower()
