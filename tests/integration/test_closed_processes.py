"""Workers and the processes beside them show their keys to no other process of their user."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from model_bakery import baker

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.models import CodeRepository, Job, JobState, Node, NodeState, get_project_model
from tests.integration.conftest import ACCESS_TOKEN
from tests.support.cluster import Cluster, wait_until
from tests.support.git import make_repository
from tests.support.servers.git_http_backend import GitServer

KEYS = [base64.b64encode(bytes(range(start, start + 32))).decode() for start in (70, 130)]


def look_into(pid: int) -> bytes:
    """Return what another process of the same user gets to see of a process; nothing where it is refused."""
    code = (
        "import sys\n"
        "for name in ('environ', 'auxv', 'maps'):\n"
        "    try:\n"
        "        with open(f'/proc/{sys.argv[1]}/{name}', 'rb') as file:\n"
        "            sys.stdout.buffer.write(file.read())\n"
        "    except (PermissionError, FileNotFoundError, ProcessLookupError):\n"
        "        pass\n"
    )
    return subprocess.run([sys.executable, "-c", code, str(pid)], capture_output=True, check=True).stdout


@pytest.fixture
def environment(child_environment: dict[str, str]) -> dict[str, str]:
    """The environment of a cluster that gets its keys as a host's does."""
    return {
        **child_environment,
        "MASTER_ENCRYPTION_KEY": KEYS[0],
        "DECRYPT_ONLY_MASTER_KEYS": KEYS[1],
        "A_COPY_OF_IT": f"key={KEYS[0]}",
    }


@pytest.mark.of_any_database
def test_a_drain_that_waits_shows_no_key(environment: dict[str, str], tmp_path: Path) -> None:
    """It may wait for hours beside the workers of its machine."""
    Node.objects.create(name="worker-1")
    repository = baker.make(
        CodeRepository, project=baker.make(get_project_model()), git_url="https://h/r", token_ciphertext=Secret("")
    )
    Job.objects.create(repository=repository, state=JobState.RUNNING, node="worker-1")
    keys = {"MASTER_ENCRYPTION_KEY": KEYS[0], "DECRYPT_ONLY_MASTER_KEYS": [KEYS[1]]}
    command = ["coderepos_drain", "worker-1", "--wait"]

    with Cluster(environment, tmp_path / "drain.log", settings=keys, command=command) as draining:
        wait_until(lambda: Node.objects.get(name="worker-1").state == NodeState.DRAINING, seconds=30, what="the state")
        seen = look_into(draining.process.pid)

        assert draining.process.poll() is None
        assert [key for key in KEYS if key.encode() in seen] == []


@pytest.mark.of_any_database
@pytest.mark.parametrize("command", [pytest.param("qcluster", marks=pytest.mark.slow), "coderepos_worker"])
def test_no_process_of_a_cluster_shows_a_key(
    command: str,
    environment: dict[str, str],
    tmp_path: Path,
    code_settings: Callable[..., dict[str, Any]],
    git_server: GitServer,
    git_root: Path,
    project: Any,
    user: Any,
) -> None:
    """From the supervisor down to the workers none can be looked into, and clones still open tokens."""
    make_repository(git_root / "app.git")
    keys = {"MASTER_ENCRYPTION_KEY": KEYS[0], "DECRYPT_ONLY_MASTER_KEYS": [KEYS[1]]}
    changed = code_settings(git_server, **keys)
    connection = services.connect_repository(
        user=user, project_id=str(project.pk), git_url=git_server.url("app.git"), access_token=ACCESS_TOKEN
    )

    with Cluster(environment, tmp_path / "cluster.log", settings=changed, command=[command]) as cluster:
        wait_until(
            lambda: CodeRepository.objects.get(pk=connection.repository.pk).clone_status == "COMPLETED",
            seconds=60,
            what="the clone",
        )
        main = psutil.Process(cluster.process.pid)
        processes = [main, *main.children(recursive=True)]
        seen = {process.pid: look_into(process.pid) for process in processes}

    assert len(processes) >= 4
    for shown in seen.values():
        assert not any(key.encode() in shown for key in KEYS)
        assert os.geteuid() == 0 or shown == b""  # root sees through it


def test_a_process_that_is_not_closed_shows_its_keys(environment: dict[str, str]) -> None:
    """Negative control: the key is found where nothing was done about it."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        try:
            wait_until(lambda: KEYS[0].encode() in look_into(other.pid), seconds=10, what="the key")
        finally:
            other.kill()


def test_closing_is_not_undone_by_a_fork(environment: dict[str, str]) -> None:
    """What a worker forks is closed too; what it executes starts anew, with the environment that it is given."""
    code = (
        "import ctypes, os, subprocess, sys, django\n"
        "django.setup()\n"
        "from coderepos.crypto.process import close_process\n"
        "close_process()\n"
        "dumpable = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)\n"
        "print(dumpable(), 'MASTER_ENCRYPTION_KEY' in os.environ, 'A_COPY_OF_IT' in os.environ, flush=True)\n"
        "pid = os.fork()\n"
        "if pid: os.waitpid(pid, 0)\n"
        "else: print(dumpable(), flush=True); os._exit(0)\n"
        "line = open('/proc/self/stat').read().rpartition(')')[2].split()\n"
        "print(ctypes.string_at(int(line[47]), int(line[48]) - int(line[47])).count(b'*' * 44), flush=True)\n"
        "print(os.listdir('/proc/self/fd') != [], flush=True)\n"
        "print(subprocess.check_output([sys.executable, '-c', 'import os; print(os.environ)']).decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "DJANGO_SETTINGS_MODULE": "config.settings", "DEBUG": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:4] == ["0 False False", "0", "3", "True"]
    assert not any(key in done.stdout for key in KEYS)
