"""Which migration of the host makes its project model."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Final

from django.apps import apps
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import CreateModel, RenameModel
from django.db.migrations.operations.base import Operation

FIRST: Final = "__first__"
"""What Django takes for the first migration of an app, and for none where it has none."""


def migration_of(label: str) -> tuple[str, str]:
    """Return the migration that the tables of repositories have to wait for.

    Django's ``swappable_dependency`` waits for an app's first migration alone, and a project model is often made by a
    later one. What changes the model afterwards is not waited for: an applied migration must never get a new
    dependency.

    :param label: ``app_label.ModelName`` of the project model.
    """
    app_label, _, name = label.partition(".")
    made_by = [migration for migration, operation in _operations(app_label) if _makes(operation, name)]
    return app_label, max(made_by, default=FIRST)


def renamed_from(label: str) -> str | None:
    """Return the label that the project model had before a migration of its app renamed it; ``None`` if none did."""
    app_label, _, name = label.partition(".")
    for _, operation in _operations(app_label):
        if isinstance(operation, RenameModel) and operation.new_name.lower() == name.lower():
            return f"{app_label}.{operation.old_name}"
    return None


def _operations(app_label: str) -> Iterator[tuple[str, Operation]]:
    """Yield every operation of an app with the name of its migration; none of an app without migrations."""
    if not any(config.label == app_label for config in apps.get_app_configs()):
        return
    package_name, _ = MigrationLoader.migrations_module(app_label)
    if package_name is None:
        return
    try:
        package = import_module(package_name)
    except ModuleNotFoundError as error:
        if not package_name.startswith(error.name or "/"):
            raise
        return
    for _, name, is_package in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if not is_package and name[0] not in "_~":
            for operation in _flat(import_module(f"{package_name}.{name}").Migration.operations):
                yield name, operation


def _flat(operations: Iterable[Operation]) -> Iterator[Operation]:
    for operation in operations:
        yield operation
        yield from _flat(getattr(operation, "state_operations", ()))


def _makes(operation: Operation, name: str) -> bool:
    made = {CreateModel: "name", RenameModel: "new_name"}.get(type(operation))
    return made is not None and getattr(operation, made).lower() == name.lower()
