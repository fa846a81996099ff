"""In which database the tables of this app are, and that they are read where they are written."""

from __future__ import annotations

from typing import Any, TypeVar

from django.apps import apps
from django.db import connections, models, router

_Model = TypeVar("_Model", bound=models.Model)


def alias() -> str:
    """Return the alias of the database that the host's routers write our tables to; all of them are in one."""
    return router.db_for_write(apps.get_model("coderepos", "CodeRepository"))


def vendor() -> str:
    """Return what kind of database that is, such as ``postgresql``."""
    return connections[alias()].vendor


def tables_exist() -> bool:
    """Return whether our tables are there: after the first ``migrate``, and before ``migrate coderepos zero``."""
    using = connections[alias()]
    return apps.get_model("coderepos", "CodeRepository")._meta.db_table in using.introspection.table_names()


class PrimaryQuerySet(models.QuerySet[_Model]):
    """Base of our querysets: rows are read where they are written.

    A replica that lags behind would not know a repository that was just connected, nor who owns a job now. ``using()``
    still chooses any other database.
    """

    _db: str | None
    _hints: dict[str, Any]

    @property
    def db(self) -> str:
        """Alias of the database that a query goes to."""
        return self._db or router.db_for_write(self.model, **self._hints)
