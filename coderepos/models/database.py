"""The database of this app's tables, which are read where they are written."""

from __future__ import annotations

from typing import Any, TypeVar

from django.apps import apps
from django.db import connections, models, router

_Model = TypeVar("_Model", bound=models.Model)


def alias() -> str:
    """Return the alias of the one database that the host's routers write our tables to."""
    return router.db_for_write(apps.get_model("coderepos", "CodeRepository"))


def vendor() -> str:
    """Return the vendor of that database, such as ``postgresql``."""
    return connections[alias()].vendor


def tables_exist() -> bool:
    """Return whether our tables exist: after the first ``migrate``, and before ``migrate coderepos zero``."""
    using = connections[alias()]
    return apps.get_model("coderepos", "CodeRepository")._meta.db_table in using.introspection.table_names()


class PrimaryQuerySet(models.QuerySet[_Model]):
    """Base of our querysets: rows are read where they are written.

    A replica that lags behind would neither have a repository that was just connected nor the present owner of a job.
    ``using()`` still chooses any other database.
    """

    _db: str | None
    _hints: dict[str, Any]

    @property
    def db(self) -> str:
        """Alias of the database that a query goes to."""
        return self._db or router.db_for_write(self.model, **self._hints)
