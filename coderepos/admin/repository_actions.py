"""What can be done with selected repositories: one service is called for each, in the name of the user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse

from coderepos import services
from coderepos.admin.base import ModelAdmin
from coderepos.exceptions import CodeReposError
from coderepos.models import CodeRepository

CANCEL: Final = "Cancel running and waiting clones"
CLEAN: Final = "Remove clones from disk"
CONSEQUENCES: Final = {
    CANCEL: "The clones that wait or run for these repositories will end. Clones published earlier stay.",
    CLEAN: "The clones of these repositories will be removed from disk, and nobody will be able to read them. The"
    " repositories stay connected, with their tokens, and can be cloned again.",
}
MOST_CONFIRMED: Final = 500
"""Most repositories on one page: its form has a field for each, and Django takes a thousand."""

TEMPLATE: Final = "admin/coderepos/confirmation.html"


@admin.action(description="Clone again", permissions=["clone"])
def clone_again(model_admin: ModelAdmin, request: HttpRequest, queryset: QuerySet[CodeRepository]) -> None:
    """Queue another clone of every selected repository that may have one."""
    _call_for_each(model_admin, request, queryset, services.clone_repository, "queued", "queued to be cloned again")


@admin.action(description=CANCEL, permissions=["clone"])
def cancel(
    model_admin: ModelAdmin, request: HttpRequest, queryset: QuerySet[CodeRepository]
) -> TemplateResponse | None:
    """Cancel the jobs of the selected repositories, once that is confirmed."""
    if "confirmed" not in request.POST:
        return _confirmation(model_admin, request, queryset, "cancel", CANCEL)
    _call_for_each(model_admin, request, queryset, services.cancel_repository, "cancelled", "cancelled")
    return None


@admin.action(description=CLEAN, permissions=["clone"])
def clean(model_admin: ModelAdmin, request: HttpRequest, queryset: QuerySet[CodeRepository]) -> TemplateResponse | None:
    """Clean the selected repositories, once that is confirmed."""
    if "confirmed" not in request.POST:
        return _confirmation(model_admin, request, queryset, "clean", CLEAN)
    _call_for_each(model_admin, request, queryset, services.clean_repository, "cleaned", "being cleaned")
    return None


def _confirmation(
    model_admin: ModelAdmin, request: HttpRequest, queryset: QuerySet[CodeRepository], action: str, title: str
) -> TemplateResponse | None:
    """Return the page that says what would happen to which repositories, and asks whether it shall."""
    if queryset.count() > MOST_CONFIRMED:
        text = f"More than {MOST_CONFIRMED} repositories are selected; choose fewer at once."
        model_admin.message_user(request, text, messages.ERROR)
        return None
    context: dict[str, Any] = {
        **model_admin.admin_site.each_context(request),
        "title": title,
        "opts": model_admin.opts,
        "repositories": queryset.select_related("project"),
        "consequence": CONSEQUENCES[title],
        "action": action,
        "checkbox_name": ACTION_CHECKBOX_NAME,
    }
    request.current_app = model_admin.admin_site.name
    return TemplateResponse(request, TEMPLATE, context)


def _call_for_each(
    model_admin: ModelAdmin,
    request: HttpRequest,
    queryset: QuerySet[CodeRepository],
    service: Callable[..., object],
    verb: str,
    outcome: str,
) -> None:
    """Call a service for every repository, and tell how often it did what, and why not."""
    done, refusals = 0, Counter[str]()
    for repository in queryset:
        try:
            service(user=request.user, repository=repository)
        except CodeReposError as error:
            refusals[error.message] += 1
        else:
            done += 1
    if done:
        model_admin.message_user(request, f"{done} {outcome}.", messages.SUCCESS)
    for message, count in refusals.items():
        model_admin.message_user(request, f"{count} not {verb}: {message}", messages.WARNING)
