"""Serializer fields whose values look the same whatever the host's settings of REST framework say."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from django.db.models import TextChoices
from rest_framework import serializers
from rest_framework.fields import empty

from coderepos.crypto.fields import MAX_TOKEN_CHARACTERS, validate_token
from coderepos.crypto.secret import Secret
from coderepos.hidden import HiddenText
from coderepos.models.database_clock import utc_text
from coderepos.services.repositories.arguments import (
    LARGEST_DEPTH,
    MAX_USERNAME_CHARACTERS,
    at_most_ref_bytes,
    no_colon,
    no_control_characters,
)


class TokenField(serializers.CharField):
    """An access token: goes in only, is kept to the byte, and is a :class:`Secret` as soon as it was read.

    No message of this field repeats any part of what was sent.
    """

    default_error_messages = {"invalid": "The access token must be a string."}

    def __init__(self, *, required: bool = False, **kwargs: Any) -> None:
        super().__init__(
            write_only=True,
            required=required,
            allow_blank=True,
            allow_null=not required,
            trim_whitespace=False,
            max_length=MAX_TOKEN_CHARACTERS,
            style={"input_type": "password", "autocomplete": "off"},
            **kwargs,
        )

    def run_validation(self, data: Any = empty) -> Secret:
        """Return the token; an empty one where none was sent and none is required."""
        if self.required and data is empty:
            self.fail("required")
        if self.required and data is None:
            self.fail("null")
        if data is empty or data is None:
            return Secret("")
        if not isinstance(data, str):
            self.fail("invalid")
        data = HiddenText(data)
        validate_token(data)
        return Secret(data)


class UserNameField(serializers.CharField):
    """A user name of Basic credentials."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_blank=True,
            trim_whitespace=False,
            max_length=MAX_USERNAME_CHARACTERS,
            validators=[no_control_characters, no_colon],
            **kwargs,
        )


class RefField(serializers.CharField):
    """A branch, tag or commit."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_blank=True,
            trim_whitespace=False,
            validators=[no_control_characters, at_most_ref_bytes],
            help_text="Branch, tag or commit; the remote's default branch when empty.",
            **kwargs,
        )


class DepthField(serializers.IntegerField):
    """A number of commits."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_null=True,
            min_value=1,
            max_value=LARGEST_DEPTH,
            help_text="Number of commits of history to clone; null for all.",
            **kwargs,
        )


class GitUrlField(serializers.CharField):
    """A text that only the parser of Git URLs accepts or refuses, so that every unusable one gets the same error."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **kwargs)

    def run_validators(self, value: str) -> None:
        """Leave control characters and surrogates to the parser too."""


class UtcTimeField(serializers.DateTimeField):
    """A time as UTC in whole seconds, whatever ``TIME_ZONE`` and the host's formats are."""

    def to_representation(self, value: datetime) -> str:
        """Return the time with ``Z``."""
        return utc_text(value)


class MegabytesField(serializers.FloatField):
    """A size in MB of 10^6 bytes, as a JSON number."""


class TextOrNullField(serializers.CharField):
    """A text of the database, where ``""`` stands for none: ``null`` in the API."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_null=True, **kwargs)

    def to_representation(self, value: str) -> str | None:  # type: ignore[override]  # null is meant
        """Return the text, or ``None`` where it is empty."""
        return value or None


class NamedChoiceField(serializers.ChoiceField):
    """A choice of a model's, under the name of its class in descriptions."""

    def __init__(self, kind: type[TextChoices], **kwargs: Any) -> None:
        super().__init__(kind.choices, **kwargs)
        self.choice_name: Final = kind.__name__
