"""A save of a repository by somebody else's code, while a worker is at it."""

from __future__ import annotations

import pytest
from model_bakery import baker

from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Job, JobState
from coderepos.projects.models import Project

pytestmark = pytest.mark.django_db


@pytest.fixture
def repository() -> CodeRepository:
    """A repository that waits for its clone."""
    return CodeRepository.objects.create(
        project=baker.make(Project), git_url="https://github.com/owner/repo", token_ciphertext=Secret("t" * 30)
    )


def finish(repository: CodeRepository) -> None:
    """Do what a worker does with its job."""
    job = Job.objects.claim(Job.objects.create(repository=repository).pk, node="worker-1")
    assert job is not None
    job.succeed(repository_values={"version": str(job.lease_token), "node": "worker-1", "substitutions": {"name": 1}})
    assert Job.objects.get().state == JobState.SUCCEEDED


@pytest.mark.parametrize("how", ["loaded", "created"])
def test_a_save_leaves_what_a_worker_wrote_meanwhile(repository: CodeRepository, how: str) -> None:
    """Else the repository would be CLONING for ever, with no job that ends it."""
    stale = CodeRepository.objects.get(pk=repository.pk) if how == "loaded" else repository
    finish(CodeRepository.objects.get(pk=repository.pk))

    stale.depth = 5
    stale.save()

    row = CodeRepository.objects.get(pk=repository.pk)
    assert (row.clone_status, row.node, row.substitutions, row.depth) == ("COMPLETED", "worker-1", {"name": 1}, 5)
    assert row.version


def test_a_save_writes_what_was_assigned(repository: CodeRepository) -> None:
    """Whoever sets a field by hand means it."""
    repository.clone_status = "FAILED"
    repository.error_code = "cancelled"
    repository.save()
    repository.error_code = ""
    repository.save()

    row = CodeRepository.objects.get(pk=repository.pk)
    assert (row.clone_status, row.error_code) == ("FAILED", "")
