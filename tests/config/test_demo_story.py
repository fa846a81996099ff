"""What the demo shows and how it speaks to the API."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from dulwich.repo import Repo

from coderepos.conf import SETTINGS
from coderepos.models import get_project_model
from config.demo import seed, story
from config.demo.api import Api
from config.demo.console import Console
from config.demo.installation import environment_of, temporary_directory
from config.demo.repositories import make_shop
from tests.support.servers.http_server import Exchange, HttpServer


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture
def stream() -> io.StringIO:
    """Where the console writes."""
    return io.StringIO()


def test_the_console_shows_no_secret(stream: io.StringIO) -> None:
    """Whatever is written, the token of the user's repository is not."""
    console = Console(stream, secrets=("sesame",))

    console.line("token sesame")
    console.answer(422, {"detail": "sesame"})
    console.bar(50, "sesame")

    assert "sesame" not in stream.getvalue()
    assert stream.getvalue().count("***") == 3


def test_a_repository_cannot_control_the_terminal(stream: io.StringIO) -> None:
    """Names and messages from a repository arrive escaped."""
    Console(stream).line("evil\x1b[2J\r\udcff\u202e.txt")

    assert stream.getvalue() == "          evil\\x1b[2J\\r\\udcff\\u202e.txt\n"


def test_the_bar_is_redrawn_on_a_terminal() -> None:
    """One line that changes, and a line feed when it is done."""
    terminal = Terminal()
    console = Console(terminal)

    console.bar(None, "Waiting for a worker")
    console.bar(50, "Receiving")
    console.end_bar()

    first, second = terminal.getvalue().split("\r")[1:]
    assert "[..............................] Waiting for a worker" in first
    assert "[###############...............] Receiving\n" in second


def test_the_bar_is_a_line_per_change_in_a_log(stream: io.StringIO) -> None:
    """What did not change is not repeated."""
    console = Console(stream)

    console.bar(10, "Receiving")
    console.bar(10, "Receiving")
    console.bar(100, "Repository successfully cloned")
    console.end_bar()

    assert len(stream.getvalue().splitlines()) == 2
    assert "\r" not in stream.getvalue()


def test_the_sandbox_is_listed_with_its_history(tmp_path: Path, stream: io.StringIO) -> None:
    """The tree with modes and sizes, then the newest commits, read without git."""
    make_shop(tmp_path / "git", commits=6, photos=1)
    tree = tmp_path / "repository"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "serve").write_text("#!/bin/sh\n")
    (tree / "bin" / "serve").chmod(0o500)
    (tree / "LATEST").symlink_to("bin/serve")

    story.show_sandbox(Console(stream), tree)

    text = stream.getvalue()
    assert "0777       link  LATEST -> bin/serve" in text
    assert "0500         10  bin/serve" in text
    with Repo(str(tmp_path / "git")) as repository:
        assert repository.head().decode()[:10] in text
    assert "Revise the prices, take 5" in text
    assert "Open the shop" not in text


def test_the_demo_takes_nothing_from_the_callers_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limits, keys and database are its own; what is brought along is named."""
    for name in SETTINGS:
        monkeypatch.setenv(name, "the caller's")
    monkeypatch.setenv("DATABASE_URL", "postgres://production/shop")
    monkeypatch.setenv("DEMO_ACCESS_TOKEN", "sesame")

    environment = environment_of(tmp_path, brought={"GIT_CA_BUNDLE": "/etc/ca.pem"})

    assert [name for name, value in environment.items() if value in {"the caller's", "sesame"}] == []
    assert environment["GIT_CA_BUNDLE"] == "/etc/ca.pem"
    assert environment["DATABASE_URL"] == f"sqlite:///{tmp_path}/db.sqlite3"
    assert environment["SANDBOX_BASE_PATH"] == str(tmp_path / "repos")


def test_read_only_sandboxes_go_with_the_folder() -> None:
    """Nothing lies around at the end, not even what cannot be written to."""
    with temporary_directory() as folder:
        tree = folder / "repos" / "tree"
        tree.mkdir(parents=True)
        (tree / "file").touch(mode=0o400)
        tree.chmod(0o500)

    assert not folder.exists()


@pytest.mark.django_db
def test_the_seed_opens_the_api_and_the_admin(client: Client) -> None:
    """A token for the API, a password for the admin, a project to connect to."""
    keys = seed.seed(username="demo", password="open")

    assert client.login(username="demo", password="open")
    assert client.get("/admin/").status_code == 200
    listed = Client().get(
        f"/api/v1/code/projects/{keys['project_id']}/repos", HTTP_AUTHORIZATION=f"Token {keys['api_token']}"
    )
    assert listed.status_code == 200
    assert get_project_model()._default_manager.count() == 1
    assert User.objects.get().is_superuser


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a web server that answers with the request's own head."""

    class Echo(HttpServer):
        def answer(self, exchange: Exchange) -> None:
            if exchange.method == "POST":
                exchange.answer(b"<h1>Bad gateway</h1>", "text/html", 502)
                return
            told = {"path": exchange.path, "authorization": exchange.headers["authorization"]}
            exchange.answer(json.dumps(told).encode(), "application/json")

    with Echo() as server:
        yield f"http://{server.host}"


def test_the_client_sends_its_token_to_the_host_itself(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the environment gets to see the token."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    answer = Api(address, token="key").get("/repos")

    assert answer.status == 200
    assert answer.body == {"path": "/api/v1/code/repos", "authorization": "Token key"}


def test_an_answer_that_is_no_json_can_still_be_shown(address: str) -> None:
    """A page of a proxy or of a crash is shown as text."""
    answer = Api(address, token="key").post("/connect", {})

    assert (answer.status, answer.body) == (502, "<h1>Bad gateway</h1>")


def test_a_server_that_is_not_there_is_not_healthy() -> None:
    """While the web server starts, the demo keeps asking."""
    assert not Api("http://127.0.0.1:9", token="key").healthy()


@pytest.mark.parametrize("option", ["--access-token=sesame", "--ref=main"])
def test_options_of_a_repository_need_one(option: str) -> None:
    """A token without a URL would be ignored in silence."""
    with pytest.raises(CommandError, match="belong to --git-url") as raised:
        call_command("demo", option)

    assert "sesame" not in str(raised.value)
