"""One contract under every kind of web server: connect calls start processes, and leave none of them.

What waits in a connect call waits for a child process. Servers with green threads replace the functions for that, and
the others run it in threads.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from rest_framework.authtoken.models import Token

from coderepos.projects.models import Project
from tests.integration.conftest import ACCESS_TOKEN
from tests.support.api_client import Answer, Api
from tests.support.cluster import ROOT, wait_until
from tests.support.git import git, make_repository
from tests.support.processes import descendants
from tests.support.selection import sampled
from tests.support.servers.git_http_backend import GitServer

GUNICORN = ["-m", "gunicorn", "config.wsgi", "--bind=fd://{fd}", "--workers=1", "--graceful-timeout=4"]
SERVERS = {
    "gunicorn gthread": [*GUNICORN, "--worker-class=gthread", "--threads=4"],
    "gunicorn sync": [*GUNICORN, "--worker-class=sync"],
    "gunicorn gevent": [*GUNICORN, "--worker-class=gevent"],
    "uvicorn": ["-m", "uvicorn", "config.asgi:application", "--fd={fd}", "--lifespan=off"],
}
SIGTERM_SECONDS = 5
CONNECT_SECONDS = 4.0
"""Most that a connect call of a small repository takes on a busy machine; on a quiet one a quarter of a second."""


@contextmanager
def serving(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a web server on a port of its own; yield its process and the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *(argument.format(fd=listener.fileno()) for argument in command)],
            env=environment,
            cwd=ROOT,
            pass_fds=(listener.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield process, f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for pid in (*descendants(process.pid), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(10)
            print(log.read_text(errors="replace")[-4_000:])


def fork_servers(pid: int) -> list[int]:
    """Return the fork servers below a process."""
    return [one for one in descendants(pid) if b"coderepos.git.preload" in Path(f"/proc/{one}/cmdline").read_bytes()]


def is_at_work(pid: int) -> bool:
    """Return whether a process exists and is not merely unreaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def timed(call: Callable[[], Answer]) -> tuple[Answer, float]:
    """Return an answer, and the seconds that it took."""
    started = time.monotonic()
    return call(), time.monotonic() - started


def kill_fork_server(server: int, host_pid: int) -> None:
    """Kill it and wait for its end: a request that reaches it while it dies is lost with it."""
    os.kill(server, signal.SIGKILL)

    def has_ended() -> bool:
        found = descendants(host_pid).get(server)
        return found is None or found.state == "Z"

    wait_until(has_ended, seconds=5, what="the end of the fork server")


@pytest.mark.parametrize("name", sampled(SERVERS, every=len(SERVERS)))
def test_connect_calls_under(
    name: str,
    git_root: Path,
    git_server: GitServer,
    code_settings: Callable[..., dict[str, Any]],
    child_environment: dict[str, str],
    project: Project,
    user: Any,
    tmp_path: Path,
) -> None:
    """Repositories are connected at once and refused, soon, without a zombie, and the server ends when it is told to.

    https://github.com/benoitc/gunicorn/issues/418
    """
    for folder in ("one", "two", "three", "four"):
        make_repository(git_root / folder)
    large = make_repository(git_root / "large")
    (large / "noise").write_bytes(os.urandom(700_000))
    git("add", "-A", cwd=large)
    git("commit", "--quiet", "-m", "large", cwd=large)
    changed = code_settings(git_server, MAX_REPO_SIZE_MB=1)
    home = {"HOME": str(tmp_path)}  # where gunicorn keeps a socket
    environment = {**child_environment, **home, "CODEREPOS_TEST_OVERRIDES": json.dumps(changed)}
    key = Token.objects.create(user=user).key

    with serving(SERVERS[name], environment, tmp_path / "server.log") as (process, address):
        api = Api(address, key)

        def connect(folder: str, token: str = ACCESS_TOKEN) -> Answer:
            values = {"git_url": git_server.url(folder), "project_id": str(project.pk), "access_token": token}
            return api.post("/connect", values)

        connected = connect("one")  # the first call waits for the server to start
        assert connected.status == 201
        with ThreadPoolExecutor(2) as callers:
            both = list(callers.map(lambda folder: timed(lambda: connect(folder)), ("two", "three")))
        assert [answer.status for answer, _ in both] == [201, 201]
        refused, refused_seconds = timed(lambda: connect("two", "wrong-token"))
        assert refused.status == 409, "connected already, whatever the token"
        refused, refused_seconds = timed(lambda: connect("nothing", "wrong-token"))
        assert (refused.status, refused.body["detail"]["error"]) == (422, "remote_auth_failed")
        too_large, too_large_seconds = timed(lambda: connect("large"))
        assert (too_large.status, too_large.body["detail"]["error"]) == (413, "repository_too_large")
        assert api.get(f"/repos/{connected.body['repo_id']}/status").body["clone_status"] == "PENDING"
        seconds = [*(each for _, each in both), refused_seconds, too_large_seconds]
        print(name, [round(each, 2) for each in seconds])
        assert max(seconds) < CONNECT_SECONDS

        wait_until(
            lambda: not [one for one in descendants(process.pid).values() if one.state == "Z"],
            seconds=2,
            what="the end of all zombies",
        )
        (server,) = fork_servers(process.pid)
        below = 1 if name == "uvicorn" else 2
        assert len(descendants(process.pid)) == below, "a worker and its fork server"

        kill_fork_server(server, process.pid)
        assert connect("four").status == 201, "by another fork server"
        assert len(descendants(process.pid)) == below

        workers = list(descendants(process.pid))
        process.terminate()
        process.wait(SIGTERM_SECONDS)
        wait_until(lambda: not any(map(is_at_work, workers)), seconds=2, what="the end of all workers")
