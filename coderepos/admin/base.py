"""Kinds of rows in the admin: those that go with their owner, and those that are only read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
    TabularInline = admin.TabularInline[Any, Any]
else:
    ModelAdmin, TabularInline = admin.ModelAdmin, admin.TabularInline


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
