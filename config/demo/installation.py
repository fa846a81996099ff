"""An installation of the host project in a temporary directory: database, web server, cluster of workers."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from django.conf import settings

from coderepos.conf import SETTINGS
from config.demo.api import Api
from config.demo.processes import DemoFailed, Program, tail

READY_SECONDS: Final = 90
SEED_SECONDS: Final = 120
USER: Final = "demo"
TOKEN_VARIABLE: Final = "DEMO_ACCESS_TOKEN"  # noqa: S105  the name of the variable


@dataclass(frozen=True)
class Installation:
    """A running installation and the keys to it."""

    url: str
    api_token: str = field(repr=False)
    password: str = field(repr=False)
    project_id: str
    sandboxes: Path
    programs: Sequence[Program]

    @property
    def api(self) -> Api:
        """The HTTP interface, as the user of the demo."""
        return Api(self.url, token=self.api_token)

    def check(self) -> None:
        """Raise :class:`DemoFailed` when a server has ended by itself."""
        for program in self.programs:
            program.check()

    def tails(self) -> str:
        """Return the last lines of all logs."""
        return "\n".join(program.tail() for program in self.programs)


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Make a directory and remove it, read-only sandboxes included."""
    directory = Path(tempfile.mkdtemp(prefix="coderepos-demo-"))
    try:
        yield directory
    finally:
        for path, _, _ in os.walk(directory):
            Path(path).chmod(0o700)
        shutil.rmtree(directory)


@contextmanager
def running(directory: Path, *, brought: Mapping[str, str]) -> Iterator[Installation]:
    """Install into ``directory`` and run a web server and a cluster of workers until the block ends.

    :param brought: settings of the app that differ from the defaults, by the names of their variables.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        environment = environment_of(directory, brought=brought)
        password = secrets.token_urlsafe(12)
        keys = _seed(environment, password=password)

        web = [sys.executable, "-m", "gunicorn", "config.wsgi", f"--bind=fd://{listener.fileno()}"]
        web += ["--threads=32", "--timeout=60", "--graceful-timeout=5", "--no-control-socket"]
        worker = [sys.executable, "manage.py", "qcluster"]
        program = partial(Program, environment=environment, directory=settings.BASE_DIR, log_directory=directory)
        programs = (
            stack.enter_context(program("web server", web, inherited=[listener.fileno()])),
            stack.enter_context(program("worker", worker)),
        )
        installation = Installation(
            url=f"http://{host}",
            api_token=keys["api_token"],
            password=password,
            project_id=keys["project_id"],
            sandboxes=directory / "repos",
            programs=programs,
        )
        _wait_until_ready(installation)
        yield installation


def environment_of(directory: Path, *, brought: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of all programs of an installation in ``directory``.

    Nothing of the caller's settings is in it, and no access token: programs get those over the API.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in {*SETTINGS, TOKEN_VARIABLE}}
    return {
        **inherited,
        **brought,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "PYTHONUNBUFFERED": "1",
        "DEBUG": "true",
        "ALLOWED_HOSTS": "127.0.0.1",
        "DATABASE_URL": f"sqlite:///{directory / 'db.sqlite3'}",
        "SECRET_KEY": secrets.token_urlsafe(50),
        "MASTER_ENCRYPTION_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "SANDBOX_BASE_PATH": str(directory / "repos"),
        "NODE_ID": "demo",
        "CLONE_CONCURRENCY": "2",
    }


def _seed(environment: Mapping[str, str], *, password: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "config.demo.seed"],
        input=json.dumps({"username": USER, "password": password}),
        env=environment,
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=SEED_SECONDS,
        check=False,
    )
    if done.returncode:
        raise DemoFailed(f"The database could not be set up.\n{tail('set-up', done.stderr)}")
    keys: dict[str, str] = json.loads(done.stdout)
    return keys


def _wait_until_ready(installation: Installation) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not installation.api.healthy():
        installation.check()
        if time.monotonic() > deadline:
            raise DemoFailed(f"Web server and worker were not ready in {READY_SECONDS} s.\n{installation.tails()}")
        time.sleep(0.2)
