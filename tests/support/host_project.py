"""A Django project in a folder of its own, as ``django-admin startproject`` makes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]

MOUNTED = """
    from tests.host_project.base import CODEREPOS, Q_CLUSTER, SQLITE_OPTIONS
    INSTALLED_APPS += ["rest_framework", "django_q", "coderepos"]
    CODEREPOS["SANDBOX_BASE_PATH"] = str(BASE_DIR / "repos")
    DATABASES["default"]["OPTIONS"] = SQLITE_OPTIONS
"""
"""What the documentation asks for, but for the project model."""


class Refused(AssertionError):
    """A command ended with another exit status than 0."""


class HostProject:
    """A fresh project named ``mysite``, on an SQLite file.

    :param folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if name not in ("DJANGO_SETTINGS_MODULE", "DATABASE_URL")
        } | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
        self._run([sys.executable, "-m", "django", "startproject", "mysite", "."])

    def add(self, path: str, text: str) -> None:
        """Append to a file, which is made with its folders where there is none."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a") as file:
            file.write(dedent(text))

    def configure(self, text: str) -> None:
        """Append to the settings."""
        self.add("mysite/settings.py", text)

    def add_app(self, name: str, models: str) -> None:
        """Add an app with models and an empty package of migrations, and install it."""
        self.add(f"{name}/__init__.py", "")
        self.add(f"{name}/migrations/__init__.py", "")
        self.add(f"{name}/models.py", "from django.db import models\nimport uuid\n" + dedent(models))
        self.configure(f"INSTALLED_APPS += [{name!r}]\n")

    def manage(self, *arguments: str) -> str:
        """Run a command and return what it printed.

        :raises Refused: it failed; the text is all that it printed.
        """
        return self._run([sys.executable, "manage.py", *arguments])

    def python(self, code: str) -> str:
        """Run code inside the project and return what it printed; raises as :meth:`manage`."""
        start = "import os, django\nos.environ['DJANGO_SETTINGS_MODULE'] = 'mysite.settings'\ndjango.setup()\n"
        return self._run([sys.executable, "-c", start + dedent(code)])

    @contextmanager
    def running(self, *arguments: str, **environment: str) -> Iterator[None]:
        """Run a command such as ``qcluster`` in a session of its own for the length of a ``with`` block."""
        command = [sys.executable, "manage.py", *arguments]
        with self.running_program(command, log=f"{arguments[0]}.log", **environment):
            yield

    @contextmanager
    def running_program(self, command: list[str], *, log: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run any program in a session of its own for the length of a ``with`` block; ``log`` is a file's name."""
        path = self.folder / log
        with path.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        except BaseException:
            print(path.read_text(errors="replace")[-4_000:])
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=10)

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        if done.returncode:
            raise Refused(done.stdout)
        return done.stdout
