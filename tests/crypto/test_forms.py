"""Forms: a token goes in and never comes out."""

from __future__ import annotations

from typing import Any

import pytest
from django import forms
from django.contrib import admin
from django.contrib.admin.utils import display_for_field
from django.contrib.auth.models import User
from django.test import RequestFactory

from coderepos.crypto.fields import PendingToken, SealedToken
from coderepos.models import CodeRepository
from coderepos.projects.models import Project
from tests.crypto.conftest import TOKEN, MakeRow

OTHER = "glpat-AnotherTokenOfTheFormTests012345"

RepositoryForm: Any = forms.modelform_factory(CodeRepository, fields=["git_url", "ref", "token_ciphertext"])


def form_of(row: CodeRepository, **values: str) -> Any:
    """A form that was sent for a row."""
    return RepositoryForm({"git_url": "https://git.example.org/a.git", "ref": "", **values}, instance=row)


def test_a_form_takes_a_token(new_row: MakeRow) -> None:
    """What was typed is sealed with the row."""
    form = form_of(new_row(token_ciphertext=""), token_ciphertext=TOKEN)

    assert form.is_valid(), form.errors
    row = form.save()

    assert isinstance(row.token_ciphertext, SealedToken)
    assert CodeRepository.objects.get().token_ciphertext.reveal() == TOKEN


def test_the_view_may_choose_the_project_after_the_form(new_row: MakeRow, row: CodeRepository) -> None:
    """Nothing is sealed before the row is saved, so that a project set in between is the one it is sealed for."""
    form = form_of(new_row(), token_ciphertext=OTHER)
    assert form.is_valid()
    fresh = form.save(commit=False)
    assert isinstance(fresh.token_ciphertext, PendingToken)
    fresh.project = Project.objects.create(name="Chosen later")
    fresh.save()

    assert CodeRepository.objects.get(pk=fresh.pk).token_ciphertext.reveal() == OTHER


def test_an_empty_field_changes_nothing(row: CodeRepository) -> None:
    """The stored token stays when none was typed, and the form does not count as changed."""
    before = row.token_ciphertext.sealed

    form = form_of(row, ref="main", token_ciphertext="")
    assert form.is_valid()
    assert form.changed_data == ["git_url", "ref"]
    form.save()

    assert CodeRepository.objects.get().token_ciphertext.sealed == before


@pytest.mark.parametrize("typed", [None, "", OTHER, "with a space"])
def test_a_form_never_shows_a_token(row: CodeRepository, typed: str | None) -> None:
    """Neither the stored one, nor the one that was just typed, nor one that was refused."""
    form = RepositoryForm(instance=row) if typed is None else form_of(row, token_ciphertext=typed)

    html = f"{form}{form.errors}{form.initial}{form['token_ciphertext']}{form['token_ciphertext'].value()!r}".replace(
        repr(typed), ""
    )

    assert TOKEN[8:] not in html
    assert not typed or typed not in html
    assert 'type="password"' in html


@pytest.mark.parametrize("typed", ["with a space", " leading", "line\nend", "é", "x" * 4097])
def test_a_form_refuses_what_is_no_token(row: CodeRepository, typed: str) -> None:
    """Nothing is trimmed; the message does not repeat it."""
    form = form_of(row, token_ciphertext=typed)

    assert list(form.errors) == ["token_ciphertext"]
    assert typed not in str(form.errors)


def test_the_label_can_be_chosen() -> None:
    """A form may call the token what its users call it."""
    field: Any = CodeRepository._meta.get_field("token_ciphertext")

    assert field.formfield(label="Deploy token", help_text="Read-only is enough.").label == "Deploy token"


def test_an_admin_is_write_only(row: CodeRepository) -> None:
    """A host's own admin with the field in it has a password input; lists and read-only pages have three stars."""

    class HostAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
        fields = ("git_url", "token_ciphertext")

    request = RequestFactory().get("/")
    request.user = User.objects.create_superuser("root")
    site = admin.AdminSite()
    site.register(CodeRepository, HostAdmin)
    page: Any = site._registry[CodeRepository].change_view(request, str(row.pk))

    html = str(page.context_data["adminform"].form)

    assert TOKEN[8:] not in html
    assert 'type="password"' in html
    assert display_for_field(row.token_ciphertext, CodeRepository._meta.get_field("token_ciphertext"), "-") == "***"


def test_the_history_of_the_admin_names_the_field_alone(row: CodeRepository) -> None:
    """What was changed is listed without any value."""
    form = form_of(row, token_ciphertext=OTHER)
    form.is_valid()
    form.save()

    message = admin.ModelAdmin(CodeRepository, admin.AdminSite()).construct_change_message(
        RequestFactory().get("/"), form, []
    )

    assert "Access token" in str(message) or "Token ciphertext" in str(message)
    assert OTHER not in str(message)
