"""Kinds of rows in the admin: those that go with their owner, and those that are only read.

No page asks the database for what it can't hold: PostgreSQL knows no NUL character, and Django lets them through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import BadRequest, ValidationError
from django.http import HttpRequest, HttpResponse

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
    TabularInline = admin.TabularInline[Any, Any]
else:
    _ModelAdmin, TabularInline = admin.ModelAdmin, admin.TabularInline

_NUL: Final = "\0"


class ModelAdmin(_ModelAdmin):
    """An admin that answers 400 to what no row can match, and finds no row under it."""

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Show the list, or act on rows of it.

        :raises BadRequest: the query string or the form has a NUL character, or a key that none of the rows can have.
        """
        _refuse_nul(request)
        for key in request.POST.getlist(ACTION_CHECKBOX_NAME):
            try:
                self.opts.pk.to_python(key)
            except ValidationError:
                raise BadRequest("There is no such row.") from None
        return super().changelist_view(request, extra_context)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Show one row, or change it.

        :raises BadRequest: the query string or the form has a NUL character.
        """
        _refuse_nul(request)
        return super().changeform_view(request, *args, **kwargs)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return the row with this key; ``None`` where there is none."""
        return None if _NUL in object_id else super().get_object(request, object_id, from_field)


def _refuse_nul(request: HttpRequest) -> None:
    for values in (request.GET, request.POST):
        for name, given in values.lists():
            if any(_NUL in text for text in (name, *map(str, given))):
                raise BadRequest("The request has a NUL character.")


class OwnedAdmin(ModelAdmin):
    """Rows that are deleted with their owner: users who may delete projects and users need no permission of ours."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether a row may be deleted: by permission on our own pages, and always along with its owner on others."""
        return self._is_cascade(request, obj) or super().has_delete_permission(request, obj)

    def _is_cascade(self, request: HttpRequest, obj: Any) -> bool:
        """Return whether another admin asks about a row that it found while it follows foreign keys."""
        match = request.resolver_match
        own_pages = f"{self.opts.app_label}_{self.opts.model_name}_"
        return obj is not None and match is not None and not (match.url_name or "").startswith(own_pages)


class ReadOnlyAdmin(OwnedAdmin):
    """Rows that are looked at and never edited."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nothing is added by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing is changed by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing is deleted by hand."""
        return self._is_cascade(request, obj)
