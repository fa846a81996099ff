"""The settings of the tests with all tables in a database that is not ``default``, where only sessions are."""

from __future__ import annotations

from typing import Any

from tests.settings import *  # noqa: F403  settings that start from others is what this module is
from tests.settings import DATABASES, Q_CLUSTER, TEST_DIR

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": TEST_DIR / "sessions.sqlite3",
        "TEST": {"NAME": TEST_DIR / "sessions.sqlite3"},
    },
    "code": DATABASES["default"],
}
DATABASE_ROUTERS = [f"{__name__}.Router"]
Q_CLUSTER = {**Q_CLUSTER, "orm": "code"}


class Router:
    """Sends everything but sessions to the database ``code``."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        """Where rows of a model are read."""
        return self.db_for_write(model, **hints)

    def db_for_write(self, model: Any, **hints: Any) -> str:
        """Where rows of a model are written."""
        return "default" if model._meta.app_label == "sessions" else "code"

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """Whether tables of an app are in a database: in one of the two, and in no other."""
        return (db == "default") == (app_label == "sessions")
