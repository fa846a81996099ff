"""Running a fetch in tests: in this process, or as the child process that it is in production."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

import coderepos
from coderepos.git.fetch import fetch
from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.platforms import KNOWN_HOSTS, KnownHost
from coderepos.git.url import parse_git_url
from coderepos.git.wire import FetchRequest, request_line

_CODE = """\
import sys
root, libraries, pack_fd = sys.argv[1:]
sys.path[:0] = [root]
sys.path.append(libraries)
from coderepos.git.fetch import main
sys.exit(main(int(pack_fd)))
"""


class Server(Protocol):
    """A test server that says under which policy it may be asked."""

    def policy(self) -> NetworkPolicy: ...


@dataclass
class Fetched:
    """What a fetch in this process left."""

    pack: bytes
    outcome: dict[str, Any]
    events: list[Mapping[str, Any]]


@dataclass
class ChildRun:
    """What a fetch in a child process left."""

    status: int
    events: list[dict[str, Any]]
    stderr: str
    seconds: float
    peak_mb: float

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]


def fetch_request(server: Server, url: str, **changes: Any) -> FetchRequest:
    """Return a request for the whole history of the default branch, apart from ``changes``."""
    fields: dict[str, Any] = {
        "url": url,
        "username": None,
        "password": None,
        "ref": "",
        "depth": None,
        "policy": server.policy(),
        "limits": Limits(receive_seconds=2, clone_seconds=10),
        "min_level": 1,
        "count_only": False,
    }
    return FetchRequest(**{**fields, **changes})


def run_fetch(request: FetchRequest, hosts: Mapping[str, KnownHost] = KNOWN_HOSTS) -> Fetched:
    """Run a fetch in this process."""
    events: list[Mapping[str, Any]] = []
    with TemporaryFile() as pack:
        url = parse_git_url(request.url, request.policy)
        outcome = fetch(request, url, pack.fileno(), events.append, hosts=hosts)
        pack.seek(0)
        return Fetched(pack.read(), outcome, events)


def run_child(request: FetchRequest, environment: Mapping[str, str] | None = None) -> ChildRun:
    """Run a fetch as a child process with an empty environment, or the given one, and measure it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    root = str(Path(coderepos.__file__).resolve().parent.parent)
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _CODE, root, sysconfig.get_path("purelib"), str(nowhere)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(nowhere,),
            env=dict(environment or {}),
            cwd="/",
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        peak = _PeakMemory(process.pid)
        with process.stdin, process.stdout, process.stderr, peak:
            process.stdin.write(request_line(request))
            process.stdin.close()
            events = [json.loads(line) for line in process.stdout]
            stderr = process.stderr.read().decode()
        process.wait()
    finally:
        os.close(nowhere)
    return ChildRun(process.returncode, events, stderr, time.monotonic() - started, peak.mb)


class _PeakMemory:
    """Watches the peak of a process's memory; its own figure at the end would include its parent's."""

    def __init__(self, pid: int) -> None:
        self.mb = 0.0
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            if found := re.search(r"VmHWM:\s+(\d+) kB", self._status.read_text()):
                self.mb = int(found[1]) / 1_024
