"""No frame of ours names a token or a key: an exception at any line shows neither to whoever reports it."""

from __future__ import annotations

import os
import uuid
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from pytest_django import Settings
from rest_framework.test import APIClient

from coderepos import services
from coderepos.crypto import envelope
from coderepos.crypto.keyring import _keyring
from coderepos.crypto.message import KEY_BYTES
from coderepos.crypto.redaction import redact
from coderepos.models import CodeRepository, Job, ProjectMembership, Role
from coderepos.projects.models import Project
from tests.crypto.conftest import MakeRow
from tests.support.frames import watched
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer

pytestmark = pytest.mark.of_any_database

TOKEN = "ghp_InNoFrameOfAnyReport/0123456789+abc="
NEXT = "glpat-InNoFrameOfAnyReportEither0123456"
DEK = bytes(range(100, 132))


@pytest.fixture
def master_key(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """Keys that are known to the test: the data keys too."""
    turns = iter(range(10**6))

    def urandom(size: int) -> bytes:
        return DEK if size == KEY_BYTES and next(turns) % 2 == 0 else os.urandom(size)

    monkeypatch.setattr(envelope, "os", SimpleNamespace(urandom=urandom))
    _keyring.cache_clear()
    key: str = settings.CODEREPOS["MASTER_ENCRYPTION_KEY"]
    return key


@pytest.fixture
def server(tmp_path: Path, settings: Settings) -> GitServer:
    """A Git server that insists on a token."""
    make_repository(tmp_path / "app.git")
    server = GitServer(tmp_path, credentials=("git", TOKEN))
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "PRIVATE_GIT_HOSTS": [server.host],
        "INSECURE_HTTP_HOSTS": [server.host],
        "CONNECT_RATE_PER_USER": "1000/hour",
    }
    return server


@pytest.fixture
def maintainer(project: Project) -> User:
    """Somebody who may do all of it."""
    user = User.objects.create_user("maintainer")
    ProjectMembership.objects.create(project=project, user=user, role=Role.MAINTAINER)
    return user


def test_the_watcher_sees_what_is_there(new_row: MakeRow) -> None:
    """Negative control: the text of a log line is a variable of the redactor, for example."""
    with watched(TOKEN) as seen:
        redact(f"before {TOKEN} after")

    assert "coderepos.crypto.redaction.redact: text" in seen.found


def test_sealing_opening_and_rotating(new_row: MakeRow, master_key: str, settings: Settings) -> None:
    """Models, keyring and envelope name neither the token nor a key."""
    other_key = b64encode(bytes(range(60, 92))).decode()
    settings.CODEREPOS = {**settings.CODEREPOS, "DECRYPT_ONLY_MASTER_KEYS": [other_key]}
    row = new_row(token_ciphertext=TOKEN)
    with watched(TOKEN, other_key, master_key, DEK, bytes(envelope._keys(DEK, bytes(32))[0])) as seen:
        row.save()
        loaded = CodeRepository.objects.get(pk=row.pk)
        loaded.token_ciphertext.secret()
        loaded.pk, loaded.git_url = uuid.uuid4(), "https://git.example.org/a/copy"
        loaded._state.adding = True
        loaded.save()
        call_command("coderepos_rekey", "--dry-run")
        call_command("check", "coderepos")

    assert seen.found == set()
    assert seen.lines > 500


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_connecting_cloning_and_replacing(
    project: Project, maintainer: User, server: GitServer, master_key: str
) -> None:
    """From the request's body to the child's standard input, and back from the column to it."""
    api = APIClient()
    api.force_authenticate(maintainer)
    body: dict[str, Any] = {"project_id": str(project.pk), "git_url": server.url("app.git"), "access_token": TOKEN}
    secrets = TOKEN, NEXT, f"git:{TOKEN}", master_key, DEK
    with server, watched(*secrets) as seen:
        connected = api.post("/api/v1/code/connect", body, format="json")
        assert connected.status_code == 201, connected.data
        (job,) = Job.objects.all()
        assert services.worker.run_clone(job_id=job.pk) == "succeeded"
        repository = f"/api/v1/code/repos/{connected.data['repo_id']}"
        assert api.patch(repository, {"depth": 1}, format="json").status_code == 202
        server.credentials = ("git", NEXT)
        address = f"/api/v1/code/repos/{connected.data['repo_id']}/token"
        assert api.put(address, {"access_token": TOKEN}, format="json").status_code == 422
        assert api.put(address, {"access_token": NEXT}, format="json").status_code == 200
        assert api.put(address, {"access_token": "with a blank " + NEXT}, format="json").status_code == 400

    assert seen.found == set()
    assert seen.lines > 2000
