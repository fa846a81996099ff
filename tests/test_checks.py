"""The system checks: one id per message, a hint each, and bound to Django."""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.core import checks as django_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django_q.conf import Conf
from pytest_django import Settings

from coderepos import checks, queues
from coderepos.checks import deployment
from coderepos.conf import SETTINGS, conf
from coderepos.hidden import HiddenText
from coderepos.queues import django_q


class Incomplete:
    """A policy that lacks a method."""

    def allows(self) -> bool:
        return True


def ids(messages: list[django_checks.CheckMessage]) -> list[str]:
    """Return the ids of messages, and make sure that each says what to do."""
    assert all(message.hint for message in messages)
    return [str(message.id).removeprefix("coderepos.") for message in messages]


def changed(settings: Settings, **values: Any) -> None:
    """Change keys of ``CODEREPOS``."""
    settings.CODEREPOS = {**settings.CODEREPOS, **values}


def test_settings_of_the_tests_are_fine() -> None:
    """No check complains about the values that everything else is tested with."""
    for check in (checks.check_settings, checks.check_keys, checks.check_queue):
        assert check() == []


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"MAX_REPO_SIZE": 1}, "E001"),
        ({"MAX_REPO_SIZE_MB": "100"}, "E002"),
        ({"MAX_REPO_SIZE_MB": 0}, "E002"),
        ({"GIT_CLONE_TIMEOUT": True}, "E002"),
        ({"PROBE_TIMEOUT": -1}, "E002"),
        ({"SANDBOX_MIN_LEVEL": 4}, "E002"),
        ({"CLONE_MAX_RETRIES": None}, "E002"),
        ({"ALLOWED_GIT_HOSTS": "github.com"}, "E002"),
        ({"PRIVATE_GIT_HOSTS": [1]}, "E002"),
        ({"ACCESS_POLICY": None}, "E002"),
        ({"CONNECT_RATE_PER_USER": "60"}, "E003"),
        ({"CONNECT_RATE_PER_PROJECT": "often"}, "E003"),
        ({"ALLOWED_GIT_HOSTS": ["https://github.com"]}, "E004"),
        ({"ALLOWED_GIT_HOSTS": ["git*.com"]}, "E004"),
        ({"PRIVATE_GIT_HOSTS": ["*.example.org"]}, "E004"),
        ({"PRIVATE_GIT_HOSTS": ["git.example.org:https"]}, "E004"),
        ({"INSECURE_HTTP_HOSTS": ["git.example.org"]}, "E004"),
        ({"SANDBOX_BASE_PATH": "repos"}, "E005"),
        ({"ACCESS_POLICY": "no.such.Policy"}, "E006"),
        ({"RETENTION": "no.such.function"}, "E052"),
        ({"RETENTION": "tests.test_checks.__doc__"}, "E052"),
        ({"SANDBOX_MAX_GB": "10"}, "E002"),
        ({"SANDBOX_FREE_GB": -1}, "E002"),
        ({"SANDBOX_MAX_GB": 0.01}, "W051"),
        ({"LIMITS": "no.such.function"}, "E019"),
        ({"LIMITS": "tests.test_checks.__doc__"}, "E019"),
        ({"ACCESS_POLICY": "tests.test_checks.Incomplete"}, "E006"),
        ({"SANDBOX_GROUP": "no-such-group"}, "E009"),
        ({"GIT_CA_BUNDLE": "/no/such/file.pem"}, "E010"),
        ({"NO_PROXY_HOSTS": "git.example"}, "E002"),
        ({"NO_PROXY_HOSTS": ["http://git.example"]}, "E004"),
        ({"PROXY_RESOLVED_HOSTS": "*.example"}, "E002"),
        ({"PROXY_RESOLVED_HOSTS": ["*"]}, "E004"),
        ({"HTTPS_PROXY_URL": "https://proxy:3128"}, "E015"),
        ({"HTTPS_PROXY_URL": "proxy:3128"}, "E015"),
        ({"HTTPS_PROXY_URL": ["http://proxy:3128"]}, "E015"),
    ],
)
def test_bad_value_is_found(settings: Settings, values: dict[str, Any], found: str) -> None:
    """Each kind of bad value has its own id."""
    changed(settings, **values)

    assert ids(checks.check_settings()) == [found]


def test_settings_that_are_no_dict(settings: Settings) -> None:
    """A list in the place of the dict is one clear message."""
    settings.CODEREPOS = ["MAX_REPO_SIZE_MB"]

    assert ids(checks.check_settings()) == ["E002"]


PATHS = ("", "nope", "nope.X", "os.nope", ".x", "a..b", "tests.support.programs.raises.anything")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("key", "found"), [("QUEUE", "E018"), ("LIMITS", "E019"), ("RETENTION", "E052"), ("ACCESS_POLICY", "E006")]
)
def test_path_that_leads_nowhere_is_one_message(settings: Settings, key: str, found: str, path: str) -> None:
    """Whatever goes wrong as it is imported, Django starts and the check says which setting it is."""
    changed(settings, **{key: path})

    apps.get_app_config("coderepos").ready()

    assert ids([*checks.check_settings(), *checks.check_queue()]) == [found]


@pytest.mark.parametrize("path", [*PATHS[1:], "builtins.int"])
def test_storage_that_cannot_be_made_is_one_message(settings: Settings, path: str) -> None:
    """As a path that leads nowhere."""
    settings.STORAGES = {**settings.STORAGES, "packs": {"BACKEND": path, "OPTIONS": {"unknown": 1}}}
    for alias in ("packs", "none"):
        changed(settings, PACK_STORAGE=alias)
        assert ids(checks.check_storage()) == ["E053"]


@pytest.mark.parametrize("value", [[], None, {"QUEUE": 5}, {"QUEUE": None}])
def test_django_starts_whatever_the_settings_are(settings: Settings, value: Any) -> None:
    """Only so can a check say what is wrong."""
    settings.CODEREPOS = value

    apps.get_app_config("coderepos").ready()

    assert ids(checks.check_settings()) == ["E002"]


@pytest.mark.parametrize("key", [*sorted(SETTINGS), None])
def test_no_value_ends_a_check(settings: Settings, db: None, key: str | None) -> None:
    """A text from the environment in the place of a number is a message, in every check, and no traceback."""
    given = settings.CODEREPOS
    for value in (None, 5, -1, float("nan"), "", "300", b"x", [], ["x"], [5], {}, True, object()):
        settings.CODEREPOS = {**given, key: value} if key else value
        for check in (checks.check_settings, checks.check_keys, checks.check_queue, checks.check_deployment):
            ids(check())


def test_good_values_pass(settings: Settings) -> None:
    """Wildcards, ports and groups that exist are fine."""
    changed(
        settings,
        ALLOWED_GIT_HOSTS=["*.example.org", "git.example.org:8443"],
        PRIVATE_GIT_HOSTS=("git.example.org",),
        INSECURE_HTTP_HOSTS=["127.0.0.1:8000"],
        SANDBOX_GROUP="root",
    )

    assert checks.check_settings() == []


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"timeout": 100}, ["W030"]),
        ({"timeout": None}, ["W030"]),
        ({"retry": 360}, ["W031"]),
        ({"ack_failures": False}, ["W032"]),
        ({"queue_limit": 50}, ["W033"]),
        ({"bulk": 10}, ["W033"]),
        ({"sync": True}, ["W034"]),
        ({"orm": None}, []),
        ({"orm": "elsewhere"}, ["E017"]),
        ({"max_attempts": 0}, ["W036"]),
        ({"max_attempts": 3}, ["W036"]),
        ({"catch_up": True}, ["W037"]),
    ],
)
def test_queue_values_that_run_jobs_twice_or_never(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], found: list[str]
) -> None:
    """Each dangerous value of Q_CLUSTER is warned of; its values are read at import, so they are given here."""
    given = {**django_q.settings_in_force(), **values}
    monkeypatch.setattr(django_q, "settings_in_force", lambda: given)

    assert ids(checks.check_queue()) == found


def test_deployment_warnings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http, a level that no clone can have, and unmasked logs are warned of before deployment only."""
    changed(settings, INSECURE_HTTP_HOSTS=["127.0.0.1:8000"], SANDBOX_MIN_LEVEL=3)
    monkeypatch.setattr(deployment, "available_level", lambda: 1)
    monkeypatch.setattr(deployment, "_loggers", lambda: iter(()))

    assert {"W040", "W042", "W043"} <= set(ids(checks.check_deployment()))


ROOMY = {"timeout": 400, "retry": 2000, "ack_failures": True, "bulk": 1, "queue_limit": 1, "max_attempts": 1}


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ({**ROOMY, "catch_up": False, "workers": 2}, []),
        ({**ROOMY, "catch_up": False, "workers": 2, "retry": 500}, ["W031"]),
        ({"catch_up": False, "workers": 4}, ["W030", "W031", "W032", "W033", "W036"]),
        (ROOMY, ["W037"]),
        (None, ["E016"]),
    ],
)
def test_cluster_of_its_own_is_checked_by_its_own_values(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, own: dict[str, Any] | None, found: list[str]
) -> None:
    """The host's own cluster may have any values where another one works for us; it must exist."""
    changed(settings, QUEUE_CLUSTER="code")
    settings.Q_CLUSTER = {"orm": "default", "ALT_CLUSTERS": {} if own is None else {"code": own}}
    values = {"TIMEOUT": 30, "RETRY": 60, "ACK_FAILURES": False, "MAX_ATTEMPTS": 0, "CATCH_UP": True, "WORKERS": 9}
    for name, value in values.items():
        monkeypatch.setattr(Conf, name, value)

    assert ids(checks.check_queue()) == found


@pytest.mark.parametrize("path", ["/tmp/repos", "/var/tmp/x", "/dev/shm/r", "/srv/repos"])
def test_sandboxes_in_a_temporary_folder(settings: Settings, path: str) -> None:
    """The default is for a try, and is warned of before deployment."""
    changed(settings, SANDBOX_BASE_PATH=path)

    assert ("W045" in ids(checks.check_deployment())) == (path != "/srv/repos")


@pytest.mark.parametrize(("level", "found"), [(1, True), (2, False), (3, False)])
def test_isolation_of_level_one(monkeypatch: pytest.MonkeyPatch, level: int, found: bool) -> None:
    """A machine without confinement is no place for other people's repositories."""
    monkeypatch.setattr(deployment, "available_level", lambda: level)

    assert ("W047" in ids(checks.check_deployment())) == found


@pytest.mark.parametrize(
    ("backend", "found"),
    [
        ("django.core.cache.backends.locmem.LocMemCache", True),
        ("django.core.cache.backends.dummy.DummyCache", True),
        ("django.core.cache.backends.db.DatabaseCache", False),
    ],
)
def test_cache_of_one_process(settings: Settings, backend: str, found: bool) -> None:
    """Rates are counted in the cache, which all processes have to share."""
    settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": "x"}}

    assert ("W048" in ids(checks.check_deployment())) == found


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"}, set()),
        ({"transaction_mode": "IMMEDIATE"}, {"delete"}),
        ({"init_command": "PRAGMA journal_mode=WAL;"}, {"wal", "delete"}),
        ({}, {"wal", "delete"}),
    ],
)
def test_sqlite_that_locks_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str, options: dict[str, str], found: set[str]
) -> None:
    """WAL may be set by the options, or once and for all in the file itself."""
    file = sqlite3.connect(tmp_path / "db")
    file.execute(f"PRAGMA journal_mode={mode}")
    file.execute("CREATE TABLE t (x)")
    file.close()
    sqlite = SimpleNamespace(vendor="sqlite", settings_dict={"NAME": tmp_path / "db", "OPTIONS": options})
    monkeypatch.setattr(deployment, "connections", defaultdict(lambda: sqlite))

    assert ("W046" in ids(checks.check_deployment())) == (mode in found)


def test_password_of_the_proxy_in_the_open(settings: Settings) -> None:
    """A password that Django's error reports would show is warned of; a hidden one is not."""
    found = {}
    for url in ("http://u:p@proxy:1", HiddenText("http://u:p@proxy:1"), "http://proxy:1"):
        changed(settings, HTTPS_PROXY_URL=url)
        found[repr(url)] = "W044" in ids(checks.check_deployment())

    assert list(found.values()) == [True, False, False]


@pytest.mark.django_db
def test_checks_are_bound_to_django(settings: Settings) -> None:
    """``manage.py check`` shows them."""
    changed(settings, MAX_REPO_SIZE=1)

    with pytest.raises(SystemCheckError, match=re.escape("coderepos.E001")):
        call_command("check", stderr=StringIO(), stdout=StringIO())


def test_every_id_stands_in_the_list_on_top() -> None:
    """The module's docstring names each id that the code uses, and settings are all documented."""
    modules = [path for room in (checks, queues) for path in Path(room.__path__[0]).glob("*.py")]
    source = "".join(path.read_text() for path in modules)
    used = {int(number) for number in re.findall(r"\b(?:error|warning|Problem)\(\s*(\d+),", source)}
    listed = {int(number) for number in re.findall(r"[EW](\d{3})", checks.__doc__ or "")}

    assert {1, 13, 16, 40, 48} < used <= listed | set(range(20, 30)) | set(range(30, 40))
    assert {name for name in vars(type(conf)) if name.isupper()} == SETTINGS.keys()
