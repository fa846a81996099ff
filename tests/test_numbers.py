"""What is no number, or one that cannot be meant, is refused wherever an operator or a host gives one."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands, load_command_class
from django.core.management.base import CommandError
from pytest_django import Settings

from coderepos import checks
from coderepos.conf import SETTINGS
from coderepos.limits import Limits, Quota
from coderepos.setting_types import Number
from config import environment

NO_NUMBERS = ("nan", "inf", "-inf", "-5", "1e400", "True", "", "five")
COMMANDS = [name for name, app in get_commands().items() if app == "coderepos"]
NUMBERS = [name for name, setting in SETTINGS.items() if isinstance(setting.kind, Number)]


def arguments_of(command: str) -> list[str]:
    """Return the options of a command that take a value other than a text."""
    parser = load_command_class("coderepos", command).create_parser("manage.py", command)
    ours = [action for action in parser._actions if action.option_strings[:1] not in (["-v"], ["--verbosity"])]
    return [action.option_strings[-1] for action in ours if action.type not in (None, str)]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_arguments_of_commands(text: str) -> None:
    """The parser says which argument it is, before anything is done."""
    found = [(command, option) for command in COMMANDS for option in arguments_of(command)]
    assert len(found) >= 6

    for command, option in found:
        parser = load_command_class("coderepos", command).create_parser("manage.py", command)
        with pytest.raises(CommandError, match=f"argument {option}: .*must be a"):
            parser.parse_args([f"{option}={text}"])


@pytest.mark.parametrize("name", NUMBERS)
def test_settings(settings: Settings, name: str) -> None:
    """Whole numbers included: half a probe is none."""
    for value in (float("nan"), float("inf"), -float("inf"), -5, True, "5", 10**400):
        settings.CODEREPOS = {**settings.CODEREPOS, name: value}
        assert [message.id for message in checks.check_settings()] == ["coderepos.E002"], value
    kind = SETTINGS[name].kind
    assert isinstance(kind, Number)
    settings.CODEREPOS = {**settings.CODEREPOS, name: kind.least + 0.5}
    assert [message.id for message in checks.check_settings()] == (["coderepos.E002"] if kind.whole else [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, True, "3"])
def test_limits_of_tenants(value: Any) -> None:
    """A quota that nothing can pass would be none."""
    for name in ("repositories", "size_bytes", "unfinished_jobs", "probes"):
        with pytest.raises(ValueError, match=f"{name} must be a number"):
            Limits(flow="one", project=Quota(**{name: value}))
    for values in ({"weight": value}, {"slots": value}):
        with pytest.raises(ValueError, match="must be a"):
            Limits(flow="one", **values)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "2.5", "1e400"])
def test_variables_of_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A number of workers that is none ends no import of the settings with a traceback."""
    monkeypatch.setenv("FIGURE", text)
    with pytest.raises(ImproperlyConfigured, match="FIGURE must be a"):
        environment.number("FIGURE", Number(least=1, most=10, unit="workers", whole=True))
