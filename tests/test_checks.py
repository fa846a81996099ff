"""The system checks: one id per message, a hint each, and bound to Django."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core import checks as django_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from pytest_django import Settings

from coderepos import checks, queue
from coderepos.conf import KEYS, conf
from coderepos.hidden import HiddenText


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
    ],
)
def test_queue_values_that_run_jobs_twice_or_never(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], found: list[str]
) -> None:
    """Each dangerous value of Q_CLUSTER is warned of; its values are read at import, so they are given here."""
    given = {**queue.settings_in_force(), **values}
    monkeypatch.setattr(queue, "settings_in_force", lambda: given)

    assert ids(checks.check_queue()) == found


def test_deployment_warnings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http, a level that no clone can have, and unmasked logs are warned of before deployment only."""
    changed(settings, INSECURE_HTTP_HOSTS=["127.0.0.1:8000"], SANDBOX_MIN_LEVEL=3)
    monkeypatch.setattr(checks, "available_level", lambda: 1)
    monkeypatch.setattr(checks, "_loggers", lambda: iter(()))

    assert ids(checks.check_deployment()) == ["W040", "W042", "W043"]


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
    source = Path(checks.__file__).read_text()
    used = {int(number) for number in re.findall(r"_(?:error|warning)\(\s*(\d+),", source)}
    listed = {int(number) for number in re.findall(r"[EW](\d{3})", checks.__doc__ or "")}

    assert used <= listed | set(range(20, 30)) | set(range(30, 35))
    assert {name for name in vars(type(conf)) if name.isupper()} == KEYS
