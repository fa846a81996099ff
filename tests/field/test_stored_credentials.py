"""Credentials that are copied or kept with something else, as other projects met it.

- https://github.com/ansible/awx/issues/650: the secrets of a copied credential did not open, and nobody said so.
- https://github.com/go-gitea/gitea/issues/16154: what had failed could neither be changed nor tried again.
"""

from __future__ import annotations

import uuid

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from coderepos.models import CloneStatus, CodeRepository, ProjectMembership, Role
from coderepos.projects.models import Project

pytestmark = pytest.mark.django_db

TOKEN = "ghp_CopiedWithItsRepository0123456789ab"


@pytest.fixture
def repository() -> CodeRepository:
    """A repository that failed, with a token."""
    return CodeRepository.objects.create(
        project=Project.objects.create(name="Rocket"),
        git_url="https://github.com/owner/repo.git",
        token_ciphertext=TOKEN,
        clone_status=CloneStatus.FAILED,
        error_code="repository_too_large",
    )


def test_a_copied_credential_opens(repository: CodeRepository) -> None:
    """https://github.com/ansible/awx/issues/650: the copy has a token of its own, which opens."""
    copy = CodeRepository.objects.get(pk=repository.pk)
    copy.pk, copy.ref, copy._state.adding = uuid.uuid4(), "release", True
    copy.save()

    for pk in (repository.pk, copy.pk):
        assert CodeRepository.objects.get(pk=pk).token_ciphertext.reveal() == TOKEN


def test_what_failed_offers_a_change(repository: CodeRepository) -> None:
    """https://github.com/go-gitea/gitea/issues/16154: the address takes other values; the page says which."""
    user = User.objects.create_user("dora")
    ProjectMembership.objects.create(project=repository.project, user=user, role=Role.DEVELOPER)
    api = APIClient()
    api.force_authenticate(user)
    address = f"/api/v1/code/repos/{repository.pk}"

    assert "PATCH" in api.options(address)["Allow"]
    refused = api.patch(address, {}, format="json")
    assert (refused.status_code, refused.json()["detail"]["error"]) == (400, "invalid_request")
    assert "ref, depth and username" in refused.content.decode()
