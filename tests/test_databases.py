"""Every statement goes to the database of the tables, is read where it was written, and disturbs no other."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.checks import CheckMessage
from django.db import connections, models
from pytest_django import Settings

import coderepos
from coderepos.checks import project as checks
from coderepos.models.database import PrimaryQuerySet

FOLDER = Path(coderepos.__file__).parent
OF_DEFAULT = ("atomic", "on_commit", "set_rollback", "get_connection", "set_autocommit", "savepoint")


class ReplicaRouter:
    """Reads from a replica that nobody should ask."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        """Where a host wants rows of a model to be read."""
        return "replica"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        """Where rows of a model are written."""
        return alias_of_tests()


def alias_of_tests() -> str:
    """Return the only database, or the one of our tables in the settings with two."""
    return "code" if "code" in connections else "default"


def test_no_line_names_the_default_database() -> None:
    """Transactions say which database they are of, and nothing imports the connection of ``default``."""
    found = []
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in OF_DEFAULT:
                if not any(keyword.arg == "using" for keyword in node.keywords):
                    found.append(f"{path.name}:{node.lineno} {node.func.attr}")
            elif isinstance(node, ast.ImportFrom) and node.module == "django.db":
                wrong = {"connection", "DEFAULT_DB_ALIAS"} & {name.name for name in node.names}
                found += [f"{path.name}:{node.lineno} {name}" for name in wrong]

    assert found == []


@pytest.mark.parametrize("model", [*apps.get_app_config("coderepos").get_models()], ids=lambda model: model.__name__)
def test_rows_are_read_where_they_are_written(settings: Settings, model: type[models.Model]) -> None:
    """No manager of ours, and none that Django makes from them, asks a replica."""
    settings.DATABASE_ROUTERS = [f"{__name__}.ReplicaRouter"]

    assert model._default_manager.all().db == alias_of_tests()
    assert model._base_manager.all().db == alias_of_tests()
    assert model._default_manager.using("replica").db == "replica"
    assert isinstance(model._default_manager.all(), PrimaryQuerySet)


class ScatteringRouter:
    """Keeps users in another database than everything else."""

    def db_for_write(self, model: Any, **hints: Any) -> str:
        """Where rows of a model are written."""
        return "users" if model._meta.app_label == "auth" else alias_of_tests()


def ids(messages: list[CheckMessage]) -> list[str]:
    """Return the ids of messages, and make sure that each says what to do."""
    assert all(message.hint for message in messages)
    return [str(message.id).removeprefix("coderepos.") for message in messages]


def test_tables_that_refer_to_each_other_are_in_one_database(settings: Settings) -> None:
    """Users elsewhere than repositories cannot work, which a check says."""
    assert checks.check_one_database() == []

    settings.DATABASE_ROUTERS = [f"{__name__}.ScatteringRouter"]
    assert ids(checks.check_one_database()) == ["E014"]
