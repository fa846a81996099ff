"""Every advice that an error gives is followed, against a real server, and works."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from pytest_django import Settings
from rest_framework.test import APIClient

from coderepos import services
from coderepos.exceptions import default_message, error_classes
from coderepos.models import AuditEntry, CloneStatus, CodeRepository, Job, ProjectMembership, Role
from coderepos.projects.models import Project
from tests.support.git import git, make_repository
from tests.support.servers.git_http_backend import GitServer

pytestmark = pytest.mark.django_db(transaction=True)

ADDRESS = "/api/v1/code"
TOKEN = "token-of-the-advised-0123456789"


class Scene:
    """A server, a project, and somebody who may do everything in it."""

    def __init__(self, root: Path, server: GitServer, settings: Settings) -> None:
        self.root = root
        self.server = server
        self.settings = settings
        self.project = Project.objects.create(name="Rocket")
        self.user = User.objects.create_user("maintainer")
        ProjectMembership.objects.create(project=self.project, user=self.user, role=Role.MAINTAINER)
        self.api = APIClient()
        self.api.force_authenticate(self.user)

    def use(self, **values: Any) -> None:
        """Change settings of the app."""
        self.settings.CODEREPOS = {**self.settings.CODEREPOS, **values}

    def connect(self, **values: Any) -> Any:
        """Call connect for the repository of the scene."""
        body = {"project_id": str(self.project.pk), "git_url": self.server.url("app"), "access_token": TOKEN, **values}
        return self.api.post(f"{ADDRESS}/connect", body, format="json")

    def connected(self, **values: Any) -> CodeRepository:
        """Connect the repository of the scene, and return it."""
        answer = self.connect(**values)
        assert answer.status_code == 201, answer.data
        return CodeRepository.objects.get(pk=answer.data["repo_id"])

    def change(self, repository: CodeRepository, **values: Any) -> Any:
        """Call PATCH for it."""
        return self.api.patch(f"{ADDRESS}/repos/{repository.pk}", values, format="json")

    def work(self) -> str:
        """Do what a worker does with the newest job, and return its outcome."""
        return services.worker.run_clone(job_id=Job.objects.order_by("-created_at").values_list("pk", flat=True)[0])

    def status(self, repository: CodeRepository) -> Any:
        """What the status says."""
        return self.api.get(f"{ADDRESS}/repos/{repository.pk}/status").json()


@pytest.fixture
def scene(tmp_path: Path, settings: Settings) -> Iterator[Scene]:
    """A repository with some history on a server that insists on the token."""
    root = tmp_path / "remote"
    root.mkdir()
    make_repository(root / "app")
    git("branch", "other", cwd=root / "app")
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "CLONE_MAX_RETRIES": 0,
        "CONNECT_RATE_PER_USER": "1000/hour",
    }
    with GitServer(root, credentials=("git", TOKEN)) as server:
        settings.CODEREPOS |= {"PRIVATE_GIT_HOSTS": [server.host], "INSECURE_HTTP_HOSTS": [server.host]}
        yield Scene(root, server, settings)


def add_history(scene: Scene) -> None:
    """Give the repository a past that is larger than its present: random bytes that come and go."""
    for number in range(4):
        (scene.root / "app" / "large").write_bytes(secrets.token_bytes(400_000))
        git("add", "-A", cwd=scene.root / "app")
        git("commit", "-qm", f"large {number}", cwd=scene.root / "app")
    (scene.root / "app" / "large").unlink()
    git("add", "-A", cwd=scene.root / "app")
    git("commit", "-qm", "small again", cwd=scene.root / "app")


def failed(scene: Scene, repository: CodeRepository, code: str) -> None:
    """Let the worker fail with a code, whose sentence the status shows."""
    assert scene.work() == "failed"
    status = scene.status(repository)
    assert (status["clone_status"], status["error_code"]) == ("FAILED", code), status


def follow_smaller_depth(scene: Scene) -> None:
    """``repository_too_large``: choose a smaller depth, when connecting or after a clone failed."""
    add_history(scene)
    scene.use(MAX_REPO_SIZE_MB=1)
    repository = scene.connected()
    failed(scene, repository, "repository_too_large")
    assert "smaller depth" in scene.status(repository)["error_message"]
    assert scene.connect(depth=1).status_code == 409

    assert scene.change(repository, depth=1).status_code == 202
    assert scene.work() == "succeeded"


def follow_check_ref(scene: Scene) -> None:
    """``ref_not_found``: check the ref."""
    repository = scene.connected(ref="other")
    git("branch", "-m", "other", "third", cwd=scene.root / "app")
    failed(scene, repository, "ref_not_found")

    assert scene.change(repository, ref="second").json()["detail"]["error"] == "ref_not_found"
    assert scene.change(repository, ref="third").status_code == 202
    assert scene.work() == "succeeded"


def follow_replace_token(scene: Scene) -> None:
    """``token_undecryptable``: replace the token."""
    repository = scene.connected()
    CodeRepository._base_manager.update(token_kid="local:" + "0" * 32)
    failed(scene, repository, "token_undecryptable")
    assert scene.change(repository, depth=1).json()["detail"]["error"] == "token_undecryptable"

    body = {"access_token": TOKEN}
    assert scene.api.put(f"{ADDRESS}/repos/{repository.pk}/token", body, format="json").status_code == 200
    assert scene.api.post(f"{ADDRESS}/repos/{repository.pk}/clone").status_code == 202
    assert scene.work() == "succeeded"


def follow_valid_token(scene: Scene) -> None:
    """``remote_auth_failed``: check that the token is valid."""
    repository = scene.connected()
    scene.server.credentials = ("git", "another-token")
    failed(scene, repository, "remote_auth_failed")

    body = {"access_token": "another-token"}
    assert scene.api.put(f"{ADDRESS}/repos/{repository.pk}/token", body, format="json").status_code == 200
    assert scene.api.post(f"{ADDRESS}/repos/{repository.pk}/clone").status_code == 202
    assert scene.work() == "succeeded"


def follow_push_one(scene: Scene) -> None:
    """``repository_empty``: push a commit and try again."""
    git("init", "-q", "-b", "main", "empty", cwd=scene.root)
    answer = scene.connect(git_url=scene.server.url("empty"))
    assert answer.json()["detail"]["error"] == "repository_empty"

    git("commit", "-q", "--allow-empty", "-m", "first", cwd=scene.root / "empty")
    (scene.root / "empty" / "a").write_text("a")
    git("add", "-A", cwd=scene.root / "empty")
    git("commit", "-qm", "second", cwd=scene.root / "empty")
    scene.connected(git_url=scene.server.url("empty"))
    assert scene.work() == "succeeded"


def follow_check_url(scene: Scene) -> None:
    """``remote_not_found``: check the URL."""
    answer = scene.connect(git_url=scene.server.url("ap"))
    assert answer.json()["detail"]["error"] == "remote_not_found"

    scene.connected()


def follow_https_url(scene: Scene) -> None:
    """``invalid_git_url``: give one without user name and password."""
    url = scene.server.url("app")
    answer = scene.connect(git_url=url.replace("://", f"://git:{TOKEN}@"))
    assert answer.json()["detail"]["error"] == "invalid_git_url"

    scene.connected(git_url=url)


def follow_ask_operator(scene: Scene) -> None:
    """``url_not_allowed``: ask the operator, who allows the host."""
    scene.use(ALLOWED_GIT_HOSTS=["github.com"])
    assert scene.connect().json()["detail"]["error"] == "url_not_allowed"

    scene.use(ALLOWED_GIT_HOSTS=["github.com", scene.server.host])
    scene.connected()


def follow_wait(scene: Scene) -> None:
    """``job_running``: wait for it to end."""
    repository = scene.connected()
    for answer in (
        scene.change(repository, depth=1),
        scene.api.post(f"{ADDRESS}/repos/{repository.pk}/clone"),
    ):
        assert answer.json()["detail"]["error"] == "job_running"

    assert scene.work() == "succeeded"
    assert scene.change(repository, depth=1).status_code == 202


def follow_start_cancelled_again(scene: Scene) -> None:
    """``cancelled``: start it again when you need it."""
    repository = scene.connected()
    assert scene.api.post(f"{ADDRESS}/repos/{repository.pk}/cancel").status_code == 202
    assert scene.api.get(f"{ADDRESS}/repos/{repository.pk}/status").json()["error_code"] == "cancelled"

    assert scene.api.post(f"{ADDRESS}/repos/{repository.pk}/clone").status_code == 202
    assert scene.work() == "succeeded"


def follow_start_again(scene: Scene) -> None:
    """``worker_lost``, ``sandbox_missing``: start it again."""
    repository = scene.connected()
    Job.objects.update(state="FAILED")
    CodeRepository.objects.update(clone_status=CloneStatus.FAILED, error_code="worker_lost")

    assert scene.api.post(f"{ADDRESS}/repos/{repository.pk}/clone").status_code == 202
    assert scene.work() == "succeeded"


def follow_try_later(scene: Scene) -> None:
    """``encryption_unavailable`` and whatever passes by itself: try again later."""
    key = scene.settings.CODEREPOS["MASTER_ENCRYPTION_KEY"]
    scene.use(MASTER_ENCRYPTION_KEY=None)
    assert scene.connect().json()["detail"]["error"] == "encryption_unavailable"

    scene.use(MASTER_ENCRYPTION_KEY=key)
    scene.connected()


def follow_ask_maintainer(scene: Scene) -> None:
    """``permission_denied``: ask a maintainer, who gives the role."""
    membership = ProjectMembership.objects.filter(user=scene.user)
    repository = scene.connected()
    scene.work()
    membership.update(role=Role.VIEWER)
    assert scene.change(repository, depth=1).json()["detail"]["error"] == "permission_denied"

    membership.update(role=Role.DEVELOPER)
    assert scene.change(repository, depth=1).status_code == 202


FOLLOWED: dict[str, Callable[[Scene], None]] = {
    "encryption_unavailable": follow_try_later,
    "token_undecryptable": follow_replace_token,
    "invalid_git_url": follow_https_url,
    "url_not_allowed": follow_ask_operator,
    "remote_auth_failed": follow_valid_token,
    "remote_not_found": follow_check_url,
    "ref_not_found": follow_check_ref,
    "repository_empty": follow_push_one,
    "repository_too_large": follow_smaller_depth,
    "cancelled": follow_start_cancelled_again,
    "worker_lost": follow_start_again,
    "sandbox_missing": follow_start_again,
    "permission_denied": follow_ask_maintainer,
    "job_running": follow_wait,
}
"""What an error tells users to do, done."""

SAME_ADVICE = {
    "too_many_objects": "repository_too_large",
    "clone_timeout": "repository_too_large",
    "remote_too_slow": "repository_too_large",
    "remote_unreachable": "encryption_unavailable",
    "remote_timeout": "encryption_unavailable",
    "remote_throttled": "encryption_unavailable",
    "remote_unavailable": "encryption_unavailable",
    "remote_error": "remote_auth_failed",
    "throttled": "encryption_unavailable",
    "too_many_repositories": "url_not_allowed",
    "storage_quota_exceeded": "url_not_allowed",
    "too_many_jobs": "job_running",
    "too_many_probes": "encryption_unavailable",
    "database_busy": "encryption_unavailable",
    "evicted": "sandbox_missing",
    "expired": "sandbox_missing",
    "remote_moved": "remote_not_found",
    "remote_certificate": "url_not_allowed",
    "remote_protocol_error": "remote_not_found",
    "proxy_unavailable": "url_not_allowed",
    "isolation_unavailable": "url_not_allowed",
}
"""Errors that tell users to do what another one tells them."""

FOR_OPERATORS = {
    "internal_error",
    "out_of_memory",
    "sandbox_full",
    "sandbox_refused",
    "sandbox_root_missing",
    "sandbox_unavailable",
    "storage_unavailable",
}
"""Errors that only somebody at the machine can mend."""

ADVICE = re.compile(r"; (?!Git itself)|\b(check|choose|connect|try|ask|give|push|replace|start|wait|find|clone)\b")


@pytest.mark.parametrize("code", FOLLOWED)
def test_an_advice_works(scene: Scene, code: str) -> None:
    """Doing what the sentence says leads on."""
    FOLLOWED[code](scene)


NOTHING_TO_DO = {"unsafe_repository", "waiting_for_disk"}
"""Errors that say why, or that it goes on by itself."""


def test_every_advice_is_followed_somewhere() -> None:
    """A sentence that tells somebody to do something is in one of the tables, and no table has another."""
    advising = {code for code, kind in error_classes().items() if ADVICE.search(default_message(kind).lower())}
    known = FOLLOWED.keys() | SAME_ADVICE.keys() | FOR_OPERATORS

    assert advising - known - NOTHING_TO_DO == set()
    assert known <= error_classes().keys()
    assert set(SAME_ADVICE.values()) <= FOLLOWED.keys()


def test_a_change_from_completed_keeps_what_can_be_read(scene: Scene) -> None:
    """Readers have the old version until the new one is published, and for good where that fails."""
    repository = scene.connected(ref="main")
    assert scene.work() == "succeeded"
    before = CodeRepository.objects.get()

    answer = scene.change(repository, ref="other", depth=1)

    assert (answer.status_code, answer.json()["clone_status"]) == (202, "COMPLETED")
    assert list(Path(before.sandbox_path or "").iterdir())
    assert CodeRepository.objects.get().version == before.version
    assert scene.work() == "succeeded"
    after = CodeRepository.objects.get()
    assert (after.ref, after.depth, after.ref_name) == ("other", 1, "refs/heads/other")
    assert after.version != before.version


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "non_field_errors"),
        ({"git_url": "https://example.org/a/b"}, "non_field_errors"),
        ({"depth": 0}, "depth"),
        ({"depth": "x"}, "depth"),
        ({"ref": "a\nb"}, "ref"),
        ({"ref": None}, "ref"),
        ({"username": "a:b"}, "username"),
        ({"username": "ghp_0123456789abcdefghij"}, "username"),
    ],
)
def test_a_change_of_nothing_or_to_nonsense_is_refused(scene: Scene, body: Any, field: str) -> None:
    """Nothing is asked, and the row stays as it is."""
    repository = scene.connected()
    scene.work()
    asked = len(scene.server.requests)

    answer = scene.change(repository, **body)

    assert (answer.status_code, set(answer.json()["detail"]["fields"])) == (400, {field})
    assert len(scene.server.requests) == asked


def test_a_change_to_what_is_connected_is_refused(scene: Scene) -> None:
    """The other repository is named, and nothing is asked."""
    first = scene.connected(ref="other")
    scene.work()
    second = scene.connected()
    scene.work()
    asked = len(scene.server.requests)

    answer = scene.change(second, ref="other")

    assert (answer.status_code, answer.json()["detail"]["error"]) == (409, "already_connected")
    assert answer.json()["detail"]["repo_id"] == str(first.pk)
    assert len(scene.server.requests) == asked


def test_a_change_is_written_down(scene: Scene) -> None:
    """Who changed what, with the job; the token that was opened for it; and what was refused."""
    repository = scene.connected()
    scene.work()
    AuditEntry.objects.all()._raw_delete(AuditEntry.objects.db)

    scene.change(repository, ref="nowhere")
    scene.change(repository, depth=1, username="git")

    entries = list(AuditEntry.objects.order_by("id").values_list("event", "actor_name"))
    name = scene.user.get_username()
    assert entries == [("token_opened", name), ("connect_rejected", name), ("token_opened", name), ("changed", name)]
    assert AuditEntry.objects.get(event="changed").details == {"ref": "", "depth": 1}
    assert AuditEntry.objects.get(event="connect_rejected").details["code"] == "ref_not_found"


def test_of_many_changes_at_once_one_wins(scene: Scene) -> None:
    """The others are told that a job runs; there is one job."""
    repository = scene.connected()
    scene.work()
    answers: list[int] = []

    def change(depth: int) -> None:
        api = APIClient()
        api.force_authenticate(scene.user)
        body = {"depth": depth}
        answers.append(api.patch(f"{ADDRESS}/repos/{repository.pk}", body, format="json").status_code)
        connection.close()

    threads = [threading.Thread(target=change, args=(depth,)) for depth in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == [202, 409, 409]
    assert Job.objects.unfinished().count() == 1
