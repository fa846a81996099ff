"""Signals of the life of a repository: sent once after their commit, with what the page on mounting says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections, transaction
from django.dispatch import Signal
from model_bakery import baker
from pytest_django import Settings

from coderepos import services, signals
from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Job
from coderepos.projects.models import Project
from tests.support.database import ALIAS
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = (Path(__file__).resolve().parents[1] / "docs/mounting.md").read_text()
DOCUMENTED = {
    name: {"repository_id", "project_id", *re.findall(r"`(\w+)`", arguments)}
    for name, arguments in re.findall(r"^\| `(repository_\w+)` \|[^|]*\|([^|]*)\|$", PAGE, re.MULTILINE)
}


@pytest.fixture
def heard() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What receivers were told, all of which raise."""
    told: list[tuple[str, dict[str, Any]]] = []
    receivers = {}
    for name in DOCUMENTED:

        def listen(*, signal: Any, sender: Any, _name: str = name, **sent: Any) -> None:
            assert not connections[ALIAS].in_atomic_block
            told.append((_name, sent))
            raise RuntimeError("a receiver of the host")

        receivers[name] = listen
        getattr(signals, name).connect(listen)
    yield told
    for name, receiver in receivers.items():
        getattr(signals, name).disconnect(receiver)


def test_page_names_every_signal() -> None:
    """There are no others."""
    assert set(DOCUMENTED) == {name for name, value in vars(signals).items() if isinstance(value, Signal)}


def test_life_of_a_repository(heard: list[tuple[str, dict[str, Any]]], settings: Settings, tmp_path: Path) -> None:
    """From the connect call to the deletion each signal comes once, in order, with the documented arguments."""
    make_repository(tmp_path / "served/repository")
    root, project = User.objects.create_superuser("root"), Project.objects.create(name="Rocket")
    with GitServer(tmp_path / "served") as server:
        settings.CODEREPOS = {
            **settings.CODEREPOS,
            "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
            "PRIVATE_GIT_HOSTS": [server.host],
            "INSECURE_HTTP_HOSTS": [server.host],
        }
        url = server.url("repository")
        repository = services.connect_repository(user=root, project_id=project, git_url=url).repository
        about: dict[str, Any] = {"user": root, "repository": repository}
        assert services.worker.run_clone(job_id=Job.objects.get().pk) == "succeeded"
        repository.refresh_from_db()
        commit_id, version = repository.commit_id, repository.version
        services.clone_repository(**about)
        services.cancel_repository(**about)
        services.clone_repository(**about)
        (tmp_path / "served/repository").rename(tmp_path / "served/moved")
        assert services.worker.run_clone(job_id=Job.objects.newest_first()[0].pk) == "failed"
        services.clean_repository(**about)
        services.worker.maintain()
        services.disconnect_repository(**about)

    kinds = ("connected", "cloned", "cancelled", "failed", "cleaned", "disconnected")
    assert [name for name, _ in heard] == [f"repository_{kind}" for kind in kinds]
    told = dict(heard)
    for name, sent in told.items():
        assert set(sent) == DOCUMENTED[name], name
        assert (sent["repository_id"], sent["project_id"]) == (repository.pk, project.pk)
    assert (told["repository_cloned"]["commit_id"], told["repository_cloned"]["version"]) == (commit_id, version)
    for kind in ("cancelled", "failed", "cleaned"):
        sent = told[f"repository_{kind}"]
        assert (sent["commit_id"], sent["version"]) == (commit_id, version), kind
    assert told["repository_failed"]["error_code"] == "remote_not_found"
    assert not CodeRepository.objects.exists()


def test_nothing_is_told_of_what_is_rolled_back(heard: list[tuple[str, dict[str, Any]]]) -> None:
    """A deletion that its transaction undoes did not happen."""
    project = baker.make(Project)
    repository = baker.make(CodeRepository, project=project, git_url="https://h/r", token_ciphertext=Secret(""))

    with transaction.atomic(using=ALIAS):
        repository.delete()
        transaction.set_rollback(True, using=ALIAS)

    assert not heard
    assert CodeRepository.objects.exists()
