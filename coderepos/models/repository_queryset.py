"""Queries of repositories, none of which can point one to another host without dropping its token."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final, Self

from django.db import models
from django.db.models import Value
from django.db.models.functions import Coalesce

from coderepos.crypto.rows import SealedTokenQuerySet
from coderepos.models.database import PrimaryQuerySet
from coderepos.models.token_status import token_status
from coderepos.models.url_change import set_url_fields

if TYPE_CHECKING:
    from coderepos.models.repository import CodeRepository

_SIZE: Final = models.DecimalField(max_digits=12, decimal_places=2)

SIZE_OR_LEAST: Final = Coalesce("repository_size_mb", Value(-1), output_field=_SIZE)
"""Size of a clone, less than any other where there is none: databases disagree about the place of NULL."""

SIZE_OR_MOST: Final = Coalesce("repository_size_mb", Value(10**8), output_field=_SIZE)
"""Size of a clone, more than any other where there is none."""


class CodeRepositoryQuerySet(  # type: ignore[override]  # the plugin sees a manager of its own in each base
    SealedTokenQuerySet["CodeRepository"], PrimaryQuerySet["CodeRepository"]
):
    """Queries of repositories."""

    def in_projects(self, projects: models.QuerySet[Any]) -> Self:
        """Repositories of any of ``projects``, a queryset that becomes a sub-query."""
        return self.filter(project__in=projects)

    def without_token(self) -> Self:
        """Defer the sealed token, which no list needs."""
        return self.defer("token_ciphertext")

    def with_token_status(self) -> Self:
        """Annotate :class:`TokenStatus` as ``token_status``."""
        return self.annotate(token_status=token_status())

    def newest_first(self) -> Self:
        """Order by creation; the id breaks ties, which keeps pages stable."""
        return self.order_by("-created_at", "id")

    def update(self, **kwargs: Any) -> int:
        """Update anything but the URL, whose change :meth:`CodeRepository.save` has to see.

        :raises ValueError: ``git_url`` is named; ``bulk_update`` comes here too.
        """
        if "git_url" in kwargs:
            raise ValueError("The URL is changed by save() only: a token does not follow it to another host.")
        return super().update(**kwargs)

    update.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method

    def bulk_create(
        self,
        objs: Iterable[CodeRepository],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        update_fields: Collection[str] | None = None,
        unique_fields: Collection[str] | None = None,
    ) -> list[CodeRepository]:
        """Insert many rows; ``url_key`` and ``platform`` follow the URL of each.

        :raises InvalidGitUrl: the URL of a row is not usable.
        :raises ValueError: the URL of an existing row would be changed on a conflict.
        """
        if "git_url" in (update_fields or ()):
            raise ValueError("The URL is changed by save() only: a token does not follow it to another host.")
        objs = list(objs)
        for row in objs:
            set_url_fields(row)
            row.update_has_token()
        return super().bulk_create(
            objs,
            batch_size=batch_size,
            ignore_conflicts=ignore_conflicts,
            update_conflicts=update_conflicts,
            update_fields=update_fields,
            unique_fields=unique_fields,
        )

    bulk_create.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method

    def bulk_update(self, objs: Iterable[CodeRepository], fields: Iterable[str], batch_size: int | None = None) -> int:
        """Update many rows; whether there is a token is written with it."""
        rows, names = tuple(objs), list(fields)
        if "token_ciphertext" in names:
            names += [] if "has_token" in names else ["has_token"]
            for row in rows:
                row.update_has_token()
        return super().bulk_update(rows, names, batch_size=batch_size)

    bulk_update.alters_data = True  # type: ignore[attr-defined]  # Django reads it off the method
