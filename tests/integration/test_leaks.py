"""No token and no key is anywhere but where it belongs, after every success and every failure of a whole life.

The control tests prove that the search would find one. What a hostile server puts into the names of its refs and into
its files is its own content and is cloned as it is; it is not looked at here.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.db.models import Q
from django_q.models import Task
from django_q.tasks import async_task
from pytest_django import Settings

from coderepos.crypto.envelope import LocalKeyWrapper
from coderepos.crypto.redaction import RedactingFilter
from coderepos.crypto.secret import Secret
from coderepos.models import AuditEntry, AuditEvent, CodeRepository, Job, ProjectMembership
from coderepos.projects.models import Project
from tests.integration.conftest import Answer, Api
from tests.support.cluster import Cluster, wait_until
from tests.support.git import git, make_repository
from tests.support.leaks import Places, ProcessWatch, answer, database, files, forms_of, hunt, queue
from tests.support.servers.git_http_backend import GitServer
from tests.support.servers.hostile import (
    ADVERTISEMENT,
    RESULT,
    HostileServer,
    capabilities,
    pack_of,
    pkt,
    sideband,
    v2_server,
)
from tests.support.servers.http_server import Exchange

ECHOES = ("realm", "status", "body", "redirect", "type", "capability", "error", "progress", "fatal")


def token() -> str:
    """Return a token that differs in each of its forms."""
    return f'ghp_{secrets.token_hex(16)}"&%+/=<>?'


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


class EchoingServer(HostileServer):
    """Answers as a Git server does until it is told to repeat what it got, in the way that the path names."""

    def __init__(self) -> None:
        self.echoes = False
        self.echoed: set[str] = set()
        super().__init__(self._play)

    def _play(self, exchange: Exchange) -> None:
        mode = exchange.path.split("/")[2]
        if not (self.echoes and self._echo(mode, exchange)):
            v2_server(pack=lambda _: sideband(pack_of()))(exchange)

    def _echo(self, mode: str, exchange: Exchange) -> bool:
        header = exchange.headers.get("authorization", "")
        decoded = base64.b64decode(header.partition(" ")[2]).decode().partition(":")[2]
        text = f"{decoded} {header} {quote(decoded)} {decoded.encode().hex()}"
        data = text.encode()
        plain = not (exchange.is_advertisement or exchange.is_ls_refs)
        match mode:
            case "realm" if exchange.is_advertisement:
                exchange.answer(b"", "text/plain", 401, WWW_Authenticate=f'Basic realm="{decoded}\x1b[31m{header}"')
            case "status" if exchange.is_advertisement:
                exchange.send(f"HTTP/1.1 500 {text}\r\nContent-Length: 0\r\n\r\n".encode())
            case "body" if exchange.is_advertisement:
                exchange.answer(data, ADVERTISEMENT, 403)
            case "redirect" if exchange.is_advertisement:
                exchange.answer(b"", "text/plain", 302, Location=f"https://git.example/{quote(decoded)}/{decoded}")
            case "type" if exchange.is_advertisement:
                exchange.answer(data, f"text/{decoded}")
            case "capability" if exchange.is_advertisement:
                exchange.answer(capabilities([b"version 2\n", b"agent=" + data + b"\n", data + b"\n"]), ADVERTISEMENT)
            case "error" if exchange.is_ls_refs:
                exchange.answer(pkt(b"ERR " + data), RESULT)
            case "progress" if plain:
                pieces = [pkt(b"packfile\n"), *sideband(data, 2), *sideband(b"PACK" + data), b"0000"]
                exchange.stream(pieces, RESULT)
            case "fatal" if plain:
                exchange.stream([pkt(b"packfile\n"), *sideband(data, 3), b"0000"], RESULT)
            case _:
                return False
        self.echoed.add(mode)
        return True

    def repository(self, mode: str) -> str:
        """Return the URL of the repository that answers in ``mode``."""
        return f"http://{self.host}/owner/{mode}/repository.git"


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Path]:
    """A folder with two logs of everything that this process does: a redacted one, and one that is not."""
    folder = tmp_path / "logs"
    folder.mkdir()
    handlers = [logging.FileHandler(folder / f"web-{name}.log") for name in ("plain", "redacted")]
    handlers[1].addFilter(RedactingFilter())
    loggers = [logging.getLogger(name) for name in ("", "django", "django.db.backends", "coderepos", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(pathname)s"))
    # The plain one comes first: before Python 3.12 the filter redacts for the handlers after its own too.
    logging.getLogger().handlers[:0] = handlers
    yield folder
    for handler in handlers:
        logging.getLogger().removeHandler(handler)
        handler.close()
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


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


def new_in_shared_folders(before: set[Path]) -> Places:
    """Return what lies in the folders that all processes share, and did not before."""
    places: Places = {}
    for path in shared_entries() - before:
        if path.is_dir():
            places |= files(path)
        elif path.is_file() and not path.is_symlink():
            try:
                places[str(path)] = path.read_bytes()
            except OSError:
                continue
    return places


def shared_entries() -> set[Path]:
    """Return what lies in the folders that all processes share, without the tests' and the workplace's own."""
    ours = ("pytest-of", "coderepos-test-", "coderepos-pg-", "bash_jobs")
    return {
        path
        for folder in ("/tmp", "/var/tmp", "/dev/shm")
        for path in Path(folder).iterdir()
        if not path.name.startswith(ours)
    }


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


@contextmanager
def watched(places: Places) -> Iterator[ProcessWatch]:
    """Look at all processes meanwhile, and keep what was seen."""
    with ProcessWatch() as watch:
        yield watch
    places |= watch.places


def look_around(places: Places, when: str, *folders: Path) -> None:
    """Keep everything that is stored right now."""
    found = {**database(), **queue()}
    for folder in folders:
        found |= files(folder)
    places |= {f"{when}: {name}": content for name, content in found.items()}


def test_whole_life_leaks_nothing(  # noqa: PLR0915  one life, told in order
    api: Api,
    project: Project,
    git_root: Path,
    settings: Settings,
    tmp_path: Path,
    logs: Path,
    temporary: Path,
    deks: list[bytes],
    run_workers: Callable[[], None],
) -> None:
    """From connecting over every failure, a new token and a new master key to the last clone: no secret is anywhere."""
    tokens = {name: token() for name in ("first", "wrong", "second", "hostile", "unusable", "planted")}
    keys = {name: key() for name in ("old", "new")}
    places: Places = {}
    shared = shared_entries()
    web = RecordingApi(api, places)
    cache.clear()
    ProjectMembership.objects.update(role="maintainer")
    make_repository(git_root / "source")
    make_repository(git_root / "other")
    git("init", "--quiet", git_root / "empty")
    noise = make_repository(git_root / "large")
    (noise / "noise").write_bytes(os.urandom(3_000_000))
    git("add", "-A", cwd=noise)
    git("commit", "--quiet", "-m", "noise", cwd=noise)
    sandboxes = tmp_path / "repos"

    def connect(url: str, name: str, **values: Any) -> Answer:
        body = {"git_url": url, "access_token": tokens[name], "project_id": str(project.pk), **values}
        return web.post("/connect", body)

    def error(answered: Answer) -> str:
        return str(answered.body["detail"]["error"])

    with (
        GitServer(git_root, credentials=("git", tokens["first"])) as server,
        EchoingServer() as echoing,
        watched(places) as watch,
    ):
        hosts = [server.host, echoing.host]
        settings.DEBUG = True
        settings.CODEREPOS = {
            **settings.CODEREPOS,
            "MASTER_ENCRYPTION_KEY": keys["old"],
            "SANDBOX_BASE_PATH": str(sandboxes),
            "PRIVATE_GIT_HOSTS": hosts,
            "INSECURE_HTTP_HOSTS": hosts,
            "MAX_REPO_SIZE_MB": 2,
            "CONNECT_RATE_PER_USER": "10000/hour",
            "CONNECT_RATE_PER_PROJECT": "10000/hour",
        }

        # Refused at once, by us and by the remote
        unusable = tokens["unusable"]
        for value in (unusable + "\n", [unusable], {"token": unusable}, unusable * 200):
            assert error(connect(server.url("source"), "first", access_token=value)) == "invalid_request"
        for name in ("git_url", "ref", "username", "project_id"):
            connect(server.url("source"), "first", **{name: f"https://{unusable}@git.example/a"})
        assert error(connect(server.url("source"), "wrong")) == "remote_auth_failed"
        assert error(connect(server.url("none"), "first")) == "remote_not_found"
        assert error(connect(server.url("empty"), "first")) == "repository_empty"
        assert error(connect(server.url("source"), "first", ref="none")) == "ref_not_found"
        assert error(connect(server.url("large"), "first")) == "repository_too_large"
        assert error(connect("https://no-such-host.invalid/r.git", "first")) == "remote_unreachable"

        # Connected; the hostile ones behave until they are cloned
        source = connect(server.url("source"), "first").body["repo_id"]
        other = connect(server.url("other"), "first").body["repo_id"]
        for mode in ECHOES:
            assert connect(echoing.repository(mode), "hostile").status == 201
        echoing.echoes = True
        for mode in ECHOES:
            connect(echoing.repository(mode), "hostile", ref="main")
        assert echoing.echoed == set(ECHOES)
        echoing.echoed.clear()
        look_around(places, "connected")

        # Cloned: one well, one whose token was changed at the host, and the hostile ones
        (git_root / "other").rename(git_root / "elsewhere")
        run_workers()
        (git_root / "elsewhere").rename(git_root / "other")
        assert echoing.echoed == set(ECHOES)
        assert web.get(f"/repos/{source}/status").body["clone_status"] == "COMPLETED"
        assert web.get(f"/repos/{other}/status").body["error_code"] == "remote_not_found"
        look_around(places, "cloned", sandboxes, temporary)
        server.credentials = ("git", tokens["second"])
        assert web.post(f"/repos/{other}/clone").status == 202
        run_workers()
        assert web.get(f"/repos/{other}/status").body["error_code"] == "remote_auth_failed"
        look_around(places, "refused", sandboxes, temporary)

        # Another token, another master key, and cloned again
        assert error(web.put(f"/repos/{other}/token", {"access_token": tokens["wrong"]})) == "remote_auth_failed"
        assert web.put(f"/repos/{other}/token", {"access_token": tokens["second"]}).status == 200
        settings.CODEREPOS = {
            **settings.CODEREPOS,
            "MASTER_ENCRYPTION_KEY": keys["new"],
            "DECRYPT_ONLY_MASTER_KEYS": [keys["old"]],
        }
        output = io.StringIO()
        call_command("coderepos_rekey", stdout=output, stderr=output)
        with pytest.raises(Exception, match="need to be replaced"):
            call_command("coderepos_token_report", stdout=output, stderr=output)
        places["output of commands"] = output.getvalue().encode()
        assert web.post(f"/repos/{other}/clone").status == 202
        run_workers()
        assert web.get(f"/repos/{other}/status").body["clone_status"] == "COMPLETED"
        for path in ("", "/status", "/jobs", "/audit"):
            assert web.get(f"/repos/{other}{path}").status == 200
        web.get("/repos")

        # Somebody logs a token by mistake
        planted = Secret(tokens["planted"])
        logging.getLogger("coderepos.leaks").debug("planted %s", planted.reveal())

    look_around(places, "at the end", sandboxes, temporary)
    places |= new_in_shared_folders(shared)
    plain = (logs / "web-plain.log").read_bytes()
    written = {path.name: path.read_bytes() for path in logs.iterdir()}
    written["web-plain.log"] = b"\n".join(line for line in plain.splitlines() if b"planted" not in line)
    places |= {name: content for name, content in written.items() if name != "web-plain.log"}

    hidden = {
        **{f"token {name}": value.encode() for name, value in tokens.items()},
        **{f"master key {name}": value.encode() for name, value in keys.items()},
        **{f"bytes of master key {name}": base64.b64decode(value) for name, value in keys.items()},
        **{f"data key {number}": dek for number, dek in enumerate(deks)},
    }
    assert hunt(places, hidden) == set()
    # Statements hold a token that a user took for a ref, which only the filter knows to mask.
    assert {name for _, name, _ in hunt(written, hidden)} <= {"token unusable"}

    # Was there anything to look at?
    assert len(deks) > 10
    assert watch.saw(b"coderepos-fetch")
    assert watch.saw(b"coderepos-build")
    assert b"planted ghp_" in (logs / "web-redacted.log").read_bytes()
    assert hunt({"plain": plain}, hidden) >= {("plain", "token planted", "raw")}
    for name in ("web-plain.log", "worker-plain.log"):
        assert b'INSERT INTO "code_repo_audit"' in written[name], f"{name} has no statements"
    for needed in ("cloned: code_repos ", "cloned: code_repo_jobs ", "cloned: task ", "connected: queued ", "environ"):
        assert any(name.startswith(needed) for name in places), needed
    assert any("/tree/file.txt" in name for name in places)


@pytest.fixture
def planted(project: Project, tmp_path: Path, logs: Path) -> tuple[Places, dict[str, bytes]]:
    """Every place, with every form of a secret planted in each."""
    secret = token().encode()
    forms = forms_of(secret)
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    repository = CodeRepository.objects.create(project=project, git_url="https://h/r", token_ciphertext=Secret(""))
    places: Places = {}
    programs = []
    with ProcessWatch() as watch:
        for number, (form, needle) in enumerate(forms.items()):
            text = needle.decode()
            Job.objects.create(repository=repository, state="FAILED", error_message=text)
            AuditEntry.objects.record(AuditEvent.REJECTED, details={form: number})
            async_task("nobody.does_this", text)
            Task.objects.create(
                id=f"{number:032}", name=form, func="f", args=(), result={form: text}, started="2024-01-01T00:00Z",
                stopped="2024-01-01T00:00Z",
            )  # fmt: skip
            (tree / "deep" / f"{number}").write_bytes(b"\0" + needle)
            (tree / f"link{number}").symlink_to(text)
            logging.getLogger("anybody").debug("here: %s", text)
            wait = [sys.executable, "-c", "input()"]
            programs += [
                subprocess.Popen([*wait, text], stdin=subprocess.PIPE),
                subprocess.Popen(wait, stdin=subprocess.PIPE, env={"VALUE": text}),
            ]

        def seen() -> bool:
            return all(
                any(name.startswith(kind) and needle in content for name, content in list(watch.places.items()))
                for needle in forms.values()
                for kind in ("cmdline", "environ")
            )

        wait_until(seen, seconds=30, what="a look at every process")
    for program in programs:
        program.communicate(b"\n")
    places |= {f"process: {name}": content for name, content in watch.places.items()}
    places |= {f"database: {name}": content for name, content in database().items()}
    places |= {f"queue: {name}": content for name, content in queue().items()}
    places |= {f"files: {name}": content for name, content in files(tree).items()}
    places |= {f"logs: {path.name}": path.read_bytes() for path in logs.iterdir()}
    places["answer: 1"] = answer({"detail": {"message": secret.decode()}}, "")
    return places, {"planted": secret}


def test_the_hunt_finds_what_is_planted(planted: tuple[Places, dict[str, bytes]]) -> None:
    """The control: in every kind of place every form is found."""
    places, hidden = planted
    found = hunt(places, hidden)
    forms = set(forms_of(hidden["planted"]))

    for kind, where in {
        "process: cmdline": "process: cmdline",
        "process: environ": "process: environ",
        "jobs": "database: code_repo_jobs ",
        "queue": "queue: queued ",
        "results": "queue: task ",
        "files": "files: ",
        "log": "logs: web-plain.log",
    }.items():
        assert {form for place, _, form in found if place.startswith(where)} == forms, kind
    assert ("answer: 1", "planted", "JSON") in found


@pytest.mark.parametrize("length", [16, 32, 40, 41, 42])
def test_forms_are_those_that_encoders_write(length: int) -> None:
    """Whatever stands before and after a secret, its base64, hex and percent forms are recognised."""
    secret = secrets.token_bytes(length)
    for before in range(6):
        for after in range(4):
            whole = bytes(before) + secret + bytes(after)
            for name, text in {
                "base64": base64.b64encode(whole),
                "base64url": base64.urlsafe_b64encode(whole),
                "hex": whole.hex().encode(),
                "percent": quote(whole, safe="").encode(),
            }.items():
                assert any(form.startswith(name) for _, _, form in hunt({"x": text}, {"s": secret})), name
