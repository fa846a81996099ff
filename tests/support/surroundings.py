"""What a confined child could reach if nothing held it back, and a way to let it try."""

from __future__ import annotations

import os
import re
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coderepos.git.limits import Limits
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.process.child import Child
from coderepos.git.process.spawner import ROOT
from coderepos.git.wire import BuildRequest, FetchRequest, SearchRequest, dump_line

Fact = tuple[object, ...]


class Surroundings:
    """Sockets that listen, and files and directories that everybody may read and write."""

    def __init__(self, directory: Path, running: ExitStack) -> None:
        self.incoming = directory / "sandbox" / ".incoming-token"
        self.outside = directory / "outside"
        self.victims = directory / "outside" / "victims"
        for made in (self.incoming, self.victims, self.outside / "empty"):
            made.mkdir(parents=True)
        (self.outside / "present").write_text("here")
        for path in (directory, *directory.parents):
            if path.stat().st_uid == os.geteuid():
                path.chmod(path.stat().st_mode | 0o055)
        self.outside.chmod(0o777)
        self.victims.chmod(0o777)
        (self.outside / "present").chmod(0o666)
        self.listeners = [running.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        self.unix_path = str(directory / "socket")
        self.abstract_name = f"coderepos-test-{os.getpid()}-{id(self)}"
        for address in (self.unix_path, "\0" + self.abstract_name):
            listener = running.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen()
        Path(self.unix_path).chmod(0o666)

    def try_all(
        self,
        role: str,
        *attempts: str,
        user: int | None = None,
        without: tuple[str, ...] = (),
        min_level: int = 1,
        ca_bundle: str | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Return what a child in ``role`` says about its attempts.

        :param before: called once everything is there that it may try its luck with.
        """
        for name in attempts:
            (self.victims / name).write_text("mine")
        (self.incoming / "smuggled").write_text("mine")
        if user is not None:
            for path in (self.incoming, self.outside, *self.outside.rglob("*")):
                os.chown(path, user, user)
        allowed_port, other_port = (listener.getsockname()[1] for listener in self.listeners)
        given = {
            "role": role,
            "incoming": str(self.incoming),
            "user": user,
            "without": without,
            "request": asdict(self._request(role, min_level, ca_bundle)),
            "ports": [allowed_port],
            "allowed_port": allowed_port,
            "other_port": other_port,
            "unix_path": self.unix_path,
            "abstract_name": self.abstract_name,
            "outside": str(self.outside),
            "victims": str(self.victims),
            "other_file": str(self.outside / "present"),
            "root": ROOT,
            "library": _libc_path(),
            "parents_priority": os.getpriority(os.PRIO_PROCESS, 0),
            "parents_processors": sorted(os.sched_getaffinity(0)),
            "attempts": attempts,
        }
        before()
        return ask("tests.support.programs.confined", given)

    def _request(self, role: str, min_level: int, ca_bundle: str | None) -> FetchRequest | BuildRequest | SearchRequest:
        if role == "fetch":
            return fetch_request(min_level, ca_bundle=ca_bundle)
        if role == "search":
            return SearchRequest(limits=Limits(), min_level=min_level)
        return BuildRequest(incoming=str(self.incoming), limits=Limits(), min_level=min_level)

    def facts(self) -> dict[str, Fact]:
        """Return what is outside, each with all that anybody could change about it."""
        facts: dict[str, Fact] = {}
        for path in (self.outside, *sorted(self.outside.rglob("*"))):
            status = path.lstat()
            # The time of change tells of owners, modes, times, names and attributes too.
            facts[str(path)] = (status.st_mode, status.st_uid, status.st_size, status.st_nlink, status.st_ctime_ns)
        return facts


def fetch_request(min_level: int = 1, *, ca_bundle: str | None = None) -> FetchRequest:
    """Return a request for the fetch child."""
    return FetchRequest(
        url="https://git.example/r.git",
        username=None,
        password=None,
        ref="",
        depth=None,
        policy=NetworkPolicy(ca_bundle=ca_bundle),
        limits=Limits(),
        min_level=min_level,
        count_only=False,
    )


def ask(module: str, given: dict[str, Any]) -> dict[str, Any]:
    """Run a child through the real launcher and return its one event."""
    with open(os.devnull, "wb") as nowhere, Child("test", module, nowhere.fileno()) as child:
        child.send(dump_line(given), last=True)
        while not child.finished:
            select.select([child.events_fd], [], [], 10)
            if answer := child.read_events():
                return answer[0]
    raise AssertionError("the child said nothing")


def _libc_path() -> str:
    found = re.search(r"/\S*/libc[.-]\S+", Path("/proc/self/maps").read_text())
    assert found
    return found[0]
