"""Checks of the project model: it exists, its key can name a directory, and the tables in the database belong to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.db import connections, models, router

from coderepos.checks.messages import error
from coderepos.conf import DEFAULT_PROJECT_MODEL, project_model_label
from coderepos.migrations._project import renamed_from
from coderepos.models import CodeRepository, ProjectMembership, alias

KEY_TYPES: Final = (models.IntegerField, models.UUIDField, models.CharField, models.TextField)
"""Kinds of primary keys whose text can name a directory."""


def check_project_model(**_: Any) -> list[checks.CheckMessage]:
    """Check that the project model is one, and that its key can name a directory."""
    model = _project_model()
    if model is None:
        return [_no_model(getattr(settings, "CODEREPOS_PROJECT_MODEL", None))]
    key = _key_of(model)
    if not isinstance(key, KEY_TYPES):
        return [
            error(
                12,
                f"The primary key of {model._meta.label}, a {type(key).__name__}, cannot name a directory.",
                "Name a model whose key is an integer, a UUID or a text of at most 64 letters, digits, - and _.",
            )
        ]
    return []


def _no_model(named: object) -> checks.CheckMessage:
    if named is not None:
        message, hint = (
            f"CODEREPOS_PROJECT_MODEL is {named!r}, which is not an installed model.",
            "Write the label of a model, app_label.ModelName",
        )
    else:
        message, hint = (
            "CODEREPOS_PROJECT_MODEL does not say what repositories belong to.",
            'Set it to the label of your project model, or add "coderepos.projects" to INSTALLED_APPS, which has one',
        )
    similar = sorted(model._meta.label for model in apps.get_models() if model.__name__ == "Project")
    return error(7, message, f"{hint}; there is {' and '.join(similar)}." if similar else f"{hint}.")


def check_project_tables(*, databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Check that the tables, where they exist, belong to the project model: it may have been named after their making.

    :param databases: aliases that Django was asked to check; it checks none of its own accord but in ``migrate``.
    """
    model = _project_model()
    if model is None:
        return []
    return [message for using in databases or () for message in _strangers(using, model)]


def check_one_database(**_: Any) -> list[checks.CheckMessage]:
    """Check that routers keep our tables together, and beside those of projects and users, which they refer to."""
    ours = alias()
    related = [*apps.get_app_config("coderepos").get_models(), _project_model(), _user_model()]
    return [
        error(
            14,
            f"{model._meta.label} is in the database {router.db_for_write(model)!r}, and repositories are in {ours!r}.",
            "No foreign key leads to another database: let DATABASE_ROUTERS keep users, projects and coderepos in one.",
        )
        for model in related
        if model is not None and router.db_for_write(model) != ours
    ]


def _strangers(using: str, model: type[models.Model]) -> Iterator[checks.CheckMessage]:
    """Yield an error for the first of our tables that belongs to another table than that of the project model."""
    wanted = (model._meta.pk.column, model._meta.db_table)
    for ours in (CodeRepository, ProjectMembership):
        if not router.allow_migrate_model(using, ours):
            continue
        table = ours._meta.db_table
        with connections[using].cursor() as cursor:
            relations = connections[using].introspection.get_relations(cursor, table)
        found = relations.get("project_id", wanted)[:2]
        if found != wanted:
            yield _belongs_elsewhere(table, found[1], model)
            return


def _belongs_elsewhere(table: str, referenced_table: str, model: type[models.Model]) -> checks.CheckMessage:
    before = next((other._meta.label for other in apps.get_models() if other._meta.db_table == referenced_table), None)
    wanted = model._meta.label
    old = renamed_from(wanted)
    if before is None and old is not None:
        cause = f"The migration that renames {old} has to run under the old name"
        way_out = (
            f"set it back to {old}, run `migrate {model._meta.app_label} --skip-checks`, and set it to {wanted} again"
        )
    elif before is None:
        cause = "It was named after the tables were made"
        way_out = f"forget every repository with `migrate coderepos zero --skip-checks`, and run `migrate` for {wanted}"
    else:
        cause = "It was named after the tables were made"
        way_out = (
            f"set it back to {before}; or, to forget every repository, set it back, run `migrate coderepos zero`, set "
            f"it to {wanted} and run `migrate`"
        )
    return error(
        13,
        f"{table} belongs to {referenced_table}, and CODEREPOS_PROJECT_MODEL is {wanted}: nothing can be connected.",
        f"{cause}: {way_out}.",
    )


def _project_model() -> type[models.Model] | None:
    """Return the model that the setting names, or ours where it is absent; ``None`` where there is no such model."""
    label = getattr(settings, "CODEREPOS_PROJECT_MODEL", DEFAULT_PROJECT_MODEL)
    try:
        return apps.get_model(label) if label == project_model_label() else None
    except LookupError:
        return None


def _user_model() -> type[models.Model] | None:
    try:
        return apps.get_model(settings.AUTH_USER_MODEL)
    except LookupError:
        return None


def _key_of(model: type[models.Model]) -> models.Field[Any, Any]:
    """Return the field that holds the key: of a child in multi-table inheritance, that of its parent."""
    key: Any = model._meta.pk
    while key.remote_field is not None:
        key = key.target_field
    return cast("models.Field[Any, Any]", key)
