"""The grammar of environment variables."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from coderepos.conf import SETTINGS
from coderepos.hidden import HiddenText
from config import environment

BASE = Path("/srv/site")


@pytest.mark.parametrize(
    ("value", "meaning"), [("true", True), ("1", True), ("False", False), ("0", False), ("", None)]
)
def test_booleans_have_four_spellings(monkeypatch: pytest.MonkeyPatch, value: str, meaning: bool | None) -> None:
    """Four words are booleans, nothing at all is absent."""
    monkeypatch.setenv("FLAG", value)

    assert environment.boolean("FLAG") is meaning


@pytest.mark.parametrize("value", ["yes", "on", "2", "None"])
def test_other_words_are_no_booleans(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A misspelt switch stops the start instead of being off in silence."""
    monkeypatch.setenv("FLAG", value)

    with pytest.raises(ImproperlyConfigured, match="FLAG must be true, false, 1 or 0"):
        environment.boolean("FLAG")


@pytest.mark.parametrize(("value", "meaning"), [("100", 100), (" 4 ", 4), ("-1", -1), ("0.5", 0.5), ("", None)])
def test_numbers_keep_their_kind(monkeypatch: pytest.MonkeyPatch, value: str, meaning: float | None) -> None:
    """What is written as an integer stays one, so that a limit of 100 is shown as 100."""
    monkeypatch.setenv("FIGURE", value)

    number = environment.number("FIGURE")

    assert number == meaning
    assert type(number) is type(meaning)


def test_words_are_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable and keeps its value to itself."""
    monkeypatch.setenv("FIGURE", "hundred")

    with pytest.raises(ImproperlyConfigured, match="FIGURE must be a number") as raised:
        environment.number("FIGURE")

    assert "hundred" not in str(raised.value)


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks around items and empty items do not count."""
    monkeypatch.setenv("HOSTS", "git.example.org, *.example.com:8443,,")

    assert environment.items("HOSTS") == ["git.example.org", "*.example.com:8443"]


def test_absent_variables_leave_the_default_to_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only variables that are set get into the dict."""
    monkeypatch.setenv("NODE_ID", "worker-1")
    monkeypatch.setenv("PRIMARY_KEY", "")
    monkeypatch.delenv("ALLOWED_GIT_HOSTS", raising=False)

    values = environment.given(
        {"NODE_ID": environment.text, "PRIMARY_KEY": environment.text, "ALLOWED_GIT_HOSTS": environment.items}
    )

    assert values == {"NODE_ID": "worker-1"}


def test_each_key_of_the_app_is_read_as_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, lists and texts come as such, and what may be a secret hides itself from error reports."""
    given = {"PROBE_TIMEOUT": "5", "ALLOWED_GIT_HOSTS": "a.example,b.example", "NODE_ID": "7"}
    secret = {
        "MASTER_ENCRYPTION_KEY": "key",
        "HTTPS_PROXY_URL": "http://u:p@proxy:1",
        "KMS_KEY_ID": "vault-transit://t/k",
    }
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in (given | secret).items():
        monkeypatch.setenv(name, value)

    values = environment.app_settings()

    assert values == {"PROBE_TIMEOUT": 5, "ALLOWED_GIT_HOSTS": ["a.example", "b.example"], "NODE_ID": "7", **secret}
    assert {name for name, value in values.items() if isinstance(value, HiddenText)} == secret.keys()


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/db.sqlite3", BASE / "var/db.sqlite3"),
        ("sqlite:////data/db.sqlite3", Path("/data/db.sqlite3")),
        ("sqlite:///with%20blank.db", BASE / "with blank.db"),
        ("", BASE / "default.db"),
    ],
)
def test_sqlite_urls_name_a_file(monkeypatch: pytest.MonkeyPatch, url: str, path: Path) -> None:
    """Three slashes are relative to the project, four are absolute."""
    monkeypatch.setenv("DATABASE_URL", url)

    entry = environment.database("DATABASE_URL", base=BASE, default="sqlite:///default.db")

    assert entry["NAME"] == path
    assert entry["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert "journal_mode=WAL" in entry["OPTIONS"]["init_command"]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_postgresql_urls_are_decoded_part_by_part(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Reserved characters travel percent-encoded, libpq's options in the query."""
    monkeypatch.setenv(
        "DATABASE_URL",
        f"{scheme}://us%40er:p%3A%2F%23%25w@db.example.org:6432/na%2Fme?sslmode=require&connect_timeout=5",
    )

    entry = environment.database("DATABASE_URL", base=BASE, default="sqlite:///default.db")

    assert entry["ENGINE"] == "django.db.backends.postgresql"
    assert (entry["USER"], entry["PASSWORD"], entry["HOST"]) == ("us@er", "p:/#%w", "db.example.org")
    assert (entry["PORT"], entry["NAME"]) == (6432, "na/me")
    assert entry["OPTIONS"] == {"sslmode": "require", "connect_timeout": "5"}
    assert entry["CONN_MAX_AGE"]
    assert entry["CONN_HEALTH_CHECKS"]


def test_a_socket_is_an_option_of_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a socket keeps its capitals, which a host name in a URL would lose."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://postgres@/app?host=/run/PostgreSQL")

    entry = environment.database("DATABASE_URL", base=BASE, default="sqlite:///default.db")

    assert (entry["HOST"], entry["PORT"], entry["NAME"]) == ("", "", "app")
    assert entry["OPTIONS"] == {"host": "/run/PostgreSQL"}


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("mysql://user:hunter2@host/name", "must look like"),
        ("sqlite://var/hunter2.db", "must look like"),
        ("sqlite:///hunter2.db?mode=ro", "must look like"),
        ("sqlite:///", "names no database"),
        ("postgres://user:hunter2@host", "names no database"),
        ("postgres://user:hunter2@host:port/name", "not a valid URL"),
        ("postgres://user:hun#ter2@host/name", "percent-encode"),
        ("hunter2", "must look like"),
    ],
)
def test_bad_urls_are_refused_without_being_repeated(monkeypatch: pytest.MonkeyPatch, url: str, complaint: str) -> None:
    """Where the URL is wrong, its password stays out of the message."""
    monkeypatch.setenv("DATABASE_URL", url)

    with pytest.raises(ImproperlyConfigured, match=complaint) as raised:
        environment.database("DATABASE_URL", base=BASE, default="sqlite:///default.db")

    assert "hunter2" not in str(raised.value)
    assert "ter2" not in str(raised.value)


def test_a_kept_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    """The second call reads what the first one made."""
    path = tmp_path / "var" / "key"

    first = environment.kept_secret(path, lambda: "first")
    second = environment.kept_secret(path, lambda: "second")

    assert (first, second) == ("first", "first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_two_processes_that_start_at_once_agree_on_the_secret(tmp_path: Path) -> None:
    """Nobody reads a half-written file, and the loser takes the winner's secret."""
    path = tmp_path / "key"
    barrier = threading.Barrier(2)
    read: list[str] = []

    def start(secret: str) -> None:
        def make() -> str:
            barrier.wait(timeout=10)
            return secret

        read.append(environment.kept_secret(path, make))

    threads = [threading.Thread(target=start, args=(secret,)) for secret in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)

    assert len(read) == 2
    assert len(set(read)) == 1
    assert list(tmp_path.iterdir()) == [path]
