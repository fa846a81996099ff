"""The settings of the tests with an app of the host's that lets every worker die at its start."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig

from tests.settings import *  # noqa: F403  settings that start from others is what this module is
from tests.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.support.programs.crashing.CrashingConfig"]


class CrashingConfig(AppConfig):
    """An app whose own hook fails."""

    name = "tests.support.programs.crashing"

    def ready(self) -> None:
        """Connect the hook."""
        from django_q.signals import post_spawn

        post_spawn.connect(_crash)


def _crash(**_: Any) -> None:
    raise RuntimeError("a hook of the host's")
