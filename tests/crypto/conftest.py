"""Rows with a sealed token."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository
from coderepos.projects.models import Project

TOKEN = "ghp_TokenOfTheCryptoTests0123456789abcd"

MakeRow = Callable[..., CodeRepository]


@pytest.fixture
def project(db: None) -> Project:
    """A project."""
    return Project.objects.create(name="Rocket")


@pytest.fixture
def new_row(project: Project) -> MakeRow:
    """A maker of repositories that are not saved yet, each with the token."""

    def make(**values: Any) -> CodeRepository:
        name = uuid.uuid4().hex
        return CodeRepository(
            **{
                "project": project,
                "git_url": f"https://git.example.org/{name}.git",
                "url_key": f"https://git.example.org/{name}",
                "token_ciphertext": Secret(TOKEN),
                **values,
            }
        )

    return make


@pytest.fixture
def row(new_row: MakeRow) -> CodeRepository:
    """A stored repository, loaded from the database."""
    made = new_row()
    made.save()
    return CodeRepository.objects.get(pk=made.pk)
