"""The host project as an app: its commands, and the one check that Django makes on deployment only."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import ImproperlyConfigured


class HostConfig(AppConfig):
    """The host project."""

    name = "config"

    def ready(self) -> None:
        """Register the check."""
        register(secret_key_is_set, Tags.security)


def secret_key_is_set(**_: Any) -> list[CheckMessage]:
    """Refuse to start web server and workers without a key; ``manage.py demo`` brings its own."""
    try:
        settings.SECRET_KEY  # noqa: B018  Django raises when it is empty
    except ImproperlyConfigured:
        hint = "Set SECRET_KEY, or DEBUG=true on your own machine, which makes one under var/."
        return [Error("SECRET_KEY is empty.", hint=hint, id="config.E001")]
    return []
