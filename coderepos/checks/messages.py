"""How the checks of this app say what is wrong: an id each, and a hint that says what to do."""

from __future__ import annotations

from django.core import checks


def error(number: int, message: str, hint: str) -> checks.Error:
    """Return an error; ``number`` is its id."""
    return checks.Error(message, hint=hint, id=f"coderepos.E{number:03}")


def warning(number: int, message: str, hint: str) -> checks.Warning:
    """Return a warning; ``number`` is its id."""
    return checks.Warning(message, hint=hint, id=f"coderepos.W{number:03}")
