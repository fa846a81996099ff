"""The database that has our tables: not ``default`` where ``tests.second_database`` are the settings."""

from __future__ import annotations

from typing import Final

from django.conf import settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy

ALIAS: Final = "code" if "code" in settings.DATABASES else "default"

connection: BaseDatabaseWrapper = ConnectionProxy(connections, ALIAS)  # type: ignore[assignment]  # stands for it
"""As ``django.db.connection``, of that database."""
