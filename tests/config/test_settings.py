"""The host project's settings as programs see them, each in a process and an environment of its own."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from coderepos.conf import SETTINGS

PRODUCTION = {
    "SECRET_KEY": base64.b64encode(bytes(range(60))).decode(),
    "ALLOWED_HOSTS": "code.example.org",
    "MASTER_ENCRYPTION_KEY": base64.b64encode(bytes(range(32))).decode(),
}

READ = """
import json, sys
from django.conf import settings
json.dump({name: getattr(settings, name) for name in sys.argv[1:]}, sys.stdout, default=str)
"""


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the host project's settings and nothing else in the environment but ``environment``."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
            "SANDBOX_BASE_PATH": "/srv/repos",
            **environment,
        },
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def read(folder: Path, *names: str, **environment: str) -> dict[str, Any]:
    """Return those settings."""
    done = run(folder, "-c", READ, *names, **environment)
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def test_every_key_of_the_app_can_come_from_the_environment(tmp_path: Path) -> None:
    """The host project knows each setting by its own name, none is forgotten and none invented."""
    everything = dict.fromkeys(SETTINGS, "7")

    values = read(tmp_path, "CODEREPOS", **{**PRODUCTION, **everything})

    assert values["CODEREPOS"].keys() == SETTINGS.keys()


def test_defaults_are_left_to_the_app(tmp_path: Path) -> None:
    """What the environment does not say is not in the dict."""
    values = read(tmp_path, "CODEREPOS", **PRODUCTION)

    assert values["CODEREPOS"].keys() == {"MASTER_ENCRYPTION_KEY", "SANDBOX_BASE_PATH"}


@pytest.mark.parametrize(("workers", "clone_timeout"), [("", ""), ("1", "900"), ("16", "30"), ("4", "99.5")])
def test_a_task_is_not_handed_out_twice_while_it_waits_and_runs(
    tmp_path: Path, workers: str, clone_timeout: str
) -> None:
    """The queue's own times follow from the number of workers and the time of a clone."""
    cluster = read(tmp_path, "Q_CLUSTER", CLONE_CONCURRENCY=workers, GIT_CLONE_TIMEOUT=clone_timeout, **PRODUCTION)[
        "Q_CLUSTER"
    ]

    assert cluster["workers"] == int(workers or 4)
    assert cluster["timeout"] == math.ceil(float(clone_timeout or 300)) + 60
    assert cluster["retry"] > cluster["timeout"] * (1 + math.ceil(2 / cluster["workers"]))


def test_a_production_environment_passes_all_checks(tmp_path: Path) -> None:
    """Django's and the app's deployment checks have nothing to say."""
    checked = run(tmp_path, "manage.py", "check", "--deploy", "--fail-level", "WARNING", **PRODUCTION)

    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("start", [("manage.py", "qcluster", "--run-once"), ("-c", "import config.wsgi")])
def test_production_does_not_start_without_a_secret_key(tmp_path: Path, start: tuple[str, ...]) -> None:
    """Nothing is made up outside DEBUG, and neither web server nor workers start without a key."""
    started = run(tmp_path, *start, **{**PRODUCTION, "SECRET_KEY": ""})

    assert started.returncode != 0
    assert re.search("SECRET_KEY .*empty", started.stderr)


def test_debug_is_off_and_https_is_on_by_default(tmp_path: Path) -> None:
    """A forgotten variable is the safe one."""
    values = read(tmp_path, "DEBUG", "SECURE_SSL_REDIRECT", "SESSION_COOKIE_SECURE", "ALLOWED_HOSTS", SECRET_KEY="x")

    assert values == {"DEBUG": False, "SECURE_SSL_REDIRECT": True, "SESSION_COOKIE_SECURE": True, "ALLOWED_HOSTS": []}


def test_every_log_handler_redacts(tmp_path: Path) -> None:
    """No logger of Django keeps a handler that would write a token as it is."""
    code = """
import logging, django
django.setup()
loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
handlers = [handler for logger in loggers for handler in logger.handlers]
print([type(handler).__name__ for handler in handlers], [[type(f).__name__ for f in h.filters] for h in handlers])
logging.getLogger("django.request").error("Authorization: Bearer %s", "ghp_" + "1234567890abcdef" * 2)
"""

    done = run(tmp_path, "-c", code, **PRODUCTION)

    assert done.stdout == "['StreamHandler'] [['RedactingFilter']]\n", done.stdout + done.stderr
    assert "1234567890abcdef" not in done.stderr
    assert "Authorization" in done.stderr
