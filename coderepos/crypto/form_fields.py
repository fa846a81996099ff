"""The form field of a token: a password field that shows nothing of what was sent."""

from __future__ import annotations

from typing import Any

from django import forms

from coderepos.crypto.stored_token import MAX_TOKEN_CHARACTERS, validate_token
from coderepos.hidden import HiddenText


class TokenFormField(forms.CharField):
    """A token, whose value hides itself as soon as it is read; left empty, it stays as it is."""

    def __init__(self, *, label: str = "Access token", help_text: str = "") -> None:
        super().__init__(
            required=False,
            strip=False,
            max_length=MAX_TOKEN_CHARACTERS,
            validators=[validate_token],
            widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "off"}),
            label=label,
            help_text=help_text,
        )

    def to_python(self, value: Any) -> str:
        """Return the text."""
        return HiddenText(super().to_python(value))
