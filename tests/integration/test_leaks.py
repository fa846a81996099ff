"""No token and no key is anywhere but where it belongs, after every success and every failure of a whole life.

``test_leak_search.py`` proves that the search would find one. What a hostile server puts into the names of its refs and
into its files is its own content and is cloned as it is; it is not looked at here.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.db.models import Q
from django_q.models import Task
from pytest_django import Settings

from coderepos.crypto.envelope import LocalKeyWrapper
from coderepos.crypto.secret import Secret
from coderepos.models import Job, ProjectMembership
from coderepos.projects.models import Project
from tests.support.api_client import Answer, Api
from tests.support.cluster import Cluster, wait_until
from tests.support.git import git, make_repository
from tests.support.leaks import (
    Places,
    ProcessWatch,
    answer,
    database,
    files,
    hunt,
    new_in_shared_directories,
    new_token,
    queue,
    shared_entries,
)
from tests.support.servers.echoing import ECHOES, EchoingServer
from tests.support.servers.git_http_backend import GitServer


def key() -> str:
    """Return a master key."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


class RecordingApi(Api):
    """The API, all of whose answers are kept."""

    def __init__(self, api: Api, places: Places) -> None:
        super().__init__(api.base, api.key)
        self._places = places

    def put(self, path: str, body: Any) -> Answer:
        return self.call("PUT", path, json.dumps(body).encode())

    def call(self, method: str, path: str, data: bytes | None = None) -> Answer:
        answered = super().call(method, path, data)
        self._places[f"answer {len(self._places)} to {method} {path}"] = answer(answered.body, answered.headers)
        return answered


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of this process and of the workers."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def deks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every data key that this process wraps."""
    kept: list[bytes] = []
    wrap = LocalKeyWrapper.wrap

    def keep(self: LocalKeyWrapper, dek: bytes, aad: bytes) -> bytes:
        kept.append(dek)
        return wrap(self, dek, aad)

    monkeypatch.setattr(LocalKeyWrapper, "wrap", keep)
    return kept


@pytest.fixture
def run_workers(
    child_environment: dict[str, str], settings: Settings, tmp_path: Path, logs: Path, temporary: Path
) -> Callable[[], None]:
    """Let real workers do what there is to do, with the settings of this moment, and end them."""

    def run() -> None:
        given = tmp_path / "given.json"
        given.write_text(json.dumps({"CODEREPOS": settings.CODEREPOS, "logs": str(logs)}))
        environment = {
            **child_environment,
            "DJANGO_SETTINGS_MODULE": "tests.support.programs.leak_settings",
            "CODEREPOS_LEAK_SETTINGS": str(given),
            "TMPDIR": str(temporary),
        }
        begun = Q(state="QUEUED", attempt__gt=0) | Q(state__in=["SUCCEEDED", "FAILED"])
        with Cluster(environment, logs / "worker-output.log", settings={}):
            wait_until(lambda: not Job.objects.exclude(begun).exists(), seconds=60, what="the end of all jobs")
            # What a task returned is written after its job has ended.
            wait_until(lambda: Task.objects.count() >= Job.objects.count(), seconds=30, what="results of all tasks")

    return run


class Life:
    """What a site goes through, act by act; everything that somebody could read meanwhile is kept in ``places``."""

    def __init__(self, api: Api, project: Project, settings: Settings, root: Path, folder: Path) -> None:
        self.tokens = {name: new_token() for name in ("first", "wrong", "second", "hostile", "unusable", "planted")}
        self.keys = {name: key() for name in ("old", "new")}
        self.places: Places = {}
        self.web = RecordingApi(api, self.places)
        self.server = GitServer(root, credentials=("git", self.tokens["first"]))
        self.echoing = EchoingServer()
        self._project = project
        self._settings = settings
        self._folders = folder / "repos", folder / "tmp"

    def configure(self, **values: Any) -> None:
        """Change keys of ``CODEREPOS``."""
        self._settings.CODEREPOS = {**self._settings.CODEREPOS, **values}

    def connect(self, url: str, name: str, **values: Any) -> Answer:
        """Return the answer to a connect call with the token of that name."""
        body = {"git_url": url, "access_token": self.tokens[name], "project_id": str(self._project.pk), **values}
        return self.web.post("/connect", body)

    def status(self, repo_id: str) -> Any:
        """Return the body of the status call."""
        return self.web.get(f"/repos/{repo_id}/status").body

    def look_around(self, when: str) -> None:
        """Keep everything that is stored right now."""
        found = {**database(), **queue()}
        for folder in self._folders:
            found |= files(folder)
        self.places |= {f"{when}: {name}": content for name, content in found.items()}

    def is_refused(self) -> None:
        """Connect calls fail at once, by us and by the remote."""
        url, unusable = self.server.url, self.tokens["unusable"]
        for value in (unusable + "\n", [unusable], {"token": unusable}, unusable * 200):
            assert error(self.connect(url("source"), "first", access_token=value)) == "invalid_request"
        for name in ("git_url", "ref", "username", "project_id"):
            self.connect(url("source"), "first", **{name: f"https://{unusable}@git.example/a"})
        assert error(self.connect(url("source"), "wrong")) == "remote_auth_failed"
        assert error(self.connect(url("none"), "first")) == "remote_not_found"
        assert error(self.connect(url("empty"), "first")) == "repository_empty"
        assert error(self.connect(url("source"), "first", ref="none")) == "ref_not_found"
        assert error(self.connect(url("large"), "first")) == "repository_too_large"
        assert error(self.connect("https://no-such-host.invalid/r.git", "first")) == "remote_unreachable"

    def connects(self) -> tuple[str, str]:
        """Connect two repositories and the hostile ones, which behave until they are asked a second time."""
        source = self.connect(self.server.url("source"), "first").body["repo_id"]
        other = self.connect(self.server.url("other"), "first").body["repo_id"]
        for mode in ECHOES:
            assert self.connect(self.echoing.repository(mode), "hostile").status == 201
        self.echoing.echoes = True
        for mode in ECHOES:
            self.connect(self.echoing.repository(mode), "hostile", ref="main")
        assert self.echoing.echoed == set(ECHOES)
        self.echoing.echoed.clear()
        self.look_around("connected")
        return source, other

    def clones(self, source: str, other: str, run_workers: Callable[[], None]) -> None:
        """Clone one repository well, one that is gone, and the hostile ones."""
        root = self.server.root
        (root / "other").rename(root / "elsewhere")
        run_workers()
        (root / "elsewhere").rename(root / "other")
        assert self.echoing.echoed == set(ECHOES)
        assert self.status(source)["clone_status"] == "COMPLETED"
        assert self.status(other)["error_code"] == "remote_not_found"
        self.look_around("cloned")

    def loses_its_token(self, other: str, run_workers: Callable[[], None]) -> None:
        """Clone with a token that was changed at the host."""
        self.server.credentials = ("git", self.tokens["second"])
        assert self.web.post(f"/repos/{other}/clone").status == 202
        run_workers()
        assert self.status(other)["error_code"] == "remote_auth_failed"
        self.look_around("refused")

    def gets_another_token_and_key(self, other: str, run_workers: Callable[[], None]) -> None:
        """Replace the token and the master key, and clone again."""
        path = f"/repos/{other}"
        assert error(self.web.put(f"{path}/token", {"access_token": self.tokens["wrong"]})) == "remote_auth_failed"
        assert self.web.put(f"{path}/token", {"access_token": self.tokens["second"]}).status == 200
        self.configure(MASTER_ENCRYPTION_KEY=self.keys["new"], DECRYPT_ONLY_MASTER_KEYS=[self.keys["old"]])
        output = io.StringIO()
        call_command("coderepos_rekey", stdout=output, stderr=output)
        with pytest.raises(Exception, match="need to be replaced"):
            call_command("coderepos_token_report", stdout=output, stderr=output)
        self.places["output of commands"] = output.getvalue().encode()
        assert self.web.post(f"{path}/clone").status == 202
        run_workers()
        assert self.status(other)["clone_status"] == "COMPLETED"
        for part in ("", "/status", "/jobs", "/audit"):
            assert self.web.get(path + part).status == 200
        self.web.get("/repos")

    def logs_a_token_by_mistake(self) -> None:
        """Write a token into a log, which only the redacting filter hides."""
        logging.getLogger("coderepos.leaks").debug("planted %s", Secret(self.tokens["planted"]).reveal())


def error(answered: Answer) -> str:
    """Return the error code of an answer."""
    return str(answered.body["detail"]["error"])


@pytest.fixture
def life(
    api: Api, project: Project, git_root: Path, settings: Settings, tmp_path: Path, temporary: Path
) -> Iterator[Life]:
    """A site with a Git server of several repositories and a hostile one."""
    cache.clear()
    ProjectMembership.objects.update(role="maintainer")
    make_repository(git_root / "source")
    make_repository(git_root / "other")
    git("init", "--quiet", git_root / "empty")
    noise = make_repository(git_root / "large")
    (noise / "noise").write_bytes(os.urandom(3_000_000))
    git("add", "-A", cwd=noise)
    git("commit", "--quiet", "-m", "noise", cwd=noise)
    life = Life(api, project, settings, git_root, tmp_path)
    with life.server, life.echoing:
        hosts = [life.server.host, life.echoing.host]
        settings.DEBUG = True
        life.configure(
            MASTER_ENCRYPTION_KEY=life.keys["old"],
            SANDBOX_BASE_PATH=str(tmp_path / "repos"),
            PRIVATE_GIT_HOSTS=hosts,
            INSECURE_HTTP_HOSTS=hosts,
            MAX_REPO_SIZE_MB=2,
            CONNECT_RATE_PER_USER="10000/hour",
            CONNECT_RATE_PER_PROJECT="10000/hour",
        )
        yield life


@pytest.mark.slow
def test_whole_life_leaks_nothing(life: Life, logs: Path, deks: list[bytes], run_workers: Callable[[], None]) -> None:
    """From connecting over every failure, a new token and a new master key to the last clone: no secret is anywhere."""
    shared = shared_entries()
    with ProcessWatch() as watch:
        life.is_refused()
        source, other = life.connects()
        life.clones(source, other, run_workers)
        life.loses_its_token(other, run_workers)
        life.gets_another_token_and_key(other, run_workers)
        life.logs_a_token_by_mistake()
    life.look_around("at the end")
    places = {**life.places, **watch.places, **new_in_shared_directories(shared)}
    written = {path.name: path.read_bytes() for path in logs.iterdir()}
    plain = written["web-plain.log"]
    written["web-plain.log"] = b"\n".join(line for line in plain.splitlines() if b"planted" not in line)
    places |= {name: content for name, content in written.items() if name != "web-plain.log"}
    hidden = hidden_in(life, deks)

    assert hunt(places, hidden) == set()
    # Statements hold a token that a user took for a ref, which only the filter knows to mask.
    assert {name for _, name, _ in hunt(written, hidden)} <= {"token unusable"}
    assert hunt({"plain": plain}, hidden) >= {("plain", "token planted", "raw")}
    assert_there_was_something_to_find(places, written, watch, deks)


def hidden_in(life: Life, deks: list[bytes]) -> dict[str, bytes]:
    """Return every secret of a life by its name."""
    return {
        **{f"token {name}": value.encode() for name, value in life.tokens.items()},
        **{f"master key {name}": value.encode() for name, value in life.keys.items()},
        **{f"bytes of master key {name}": base64.b64decode(value) for name, value in life.keys.items()},
        **{f"data key {number}": dek for number, dek in enumerate(deks)},
    }


def assert_there_was_something_to_find(places: Places, written: Places, watch: ProcessWatch, deks: list[bytes]) -> None:
    """Every kind of place was looked at, and had something in it."""
    assert len(deks) > 10
    assert watch.saw(b"coderepos-fetch")
    assert watch.saw(b"coderepos-build")
    assert b"planted ghp_" in written["web-redacted.log"]
    for name in ("web-plain.log", "worker-plain.log"):
        assert b'INSERT INTO "code_repo_audit"' in written[name], f"{name} has no statements"
    for needed in ("cloned: code_repos ", "cloned: code_repo_jobs ", "cloned: task ", "connected: queued ", "environ"):
        assert any(name.startswith(needed) for name in places), needed
    assert any("/tree/file.txt" in name for name in places)
