"""A child process that plays a script instead of fetching or building: the pipeline's other half in its tests.

As fetch it finds the script in the ref of its request, as build in the file ``script`` of its incoming folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from coderepos.git.confinement.linux import die_with_parent
from coderepos.git.pack.bare_repository import CONFIG
from coderepos.git.process.fork import Forked
from coderepos.git.wire import dump_line, load_line

COMMIT = "1" * 40

STARTED = ["say", {"event": "started", "isolation": {"level": 3, "landlock_abi": 7}}]


def outcome(**changed: object) -> list[Any]:
    """Return the step in which fetch tells its outcome."""
    fields: dict[str, object] = {
        "event": "outcome",
        "wanted_id": COMMIT,
        "ref_name": "refs/heads/main",
        "head_branch": "refs/heads/main",
        "tags": [],
        "shallow": [],
        "pack_bytes": 3,
    }
    return ["say", fields | changed]


def report(**changed: object) -> list[Any]:
    """Return the step in which build tells its report."""
    fields: dict[str, object] = {
        "event": "report",
        "commit_id": COMMIT,
        "git_bytes": 1,
        "tree_bytes": 2,
        "objects": 3,
        "entries": 4,
        "substitutions": {},
        "substituted_paths": [],
        "seconds": {"scan": 0.1},
    }
    return ["say", fields | changed]


def error(code: str, **fields: object) -> list[Any]:
    """Return the step in which a child tells an error."""
    return ["say", {"event": "error", "code": code, "fields": fields, "trace": ["fetch.py:1 main"]}]


FETCH = [STARTED, ["send", 3], outcome()]
BUILD = [STARTED, ["receive"], ["await_outcome"], ["leave"], report()]


def main(pack_fd: int) -> int:
    """Play the script."""
    request = load_line(sys.stdin.buffer.readline())
    if "ref" in request:
        script = request["ref"]
    else:
        os.chdir(request["incoming"])
        script = Path("script").read_text()
    for name, *arguments in json.loads(script):
        STEPS[name](pack_fd, *arguments)
    return 0


def say(pack_fd: int, event: dict[str, Any]) -> None:
    """Emit one event."""
    raw(pack_fd, dump_line(event).decode())


def leave(pack_fd: int, code: str = "") -> None:
    """Leave what a build child leaves, in its working directory, and do to it what the code says."""
    Path("script").unlink()
    make_version(Path())
    exec(code, {"os": os, "Path": Path, "time": time})  # noqa: S102  the tests' own


def make_version(place: Path) -> None:
    """Make a working tree and Git data as the build child does."""
    contents = {
        "tree/file": b"content",
        "tree/folder/program": b"#!/bin/sh\n",
        "git/HEAD": b"ref: refs/heads/main\n",
        "git/config": CONFIG,
        "git/packed-refs": b"# pack-refs with: peeled fully-peeled sorted \n",
        f"git/objects/pack/pack-{COMMIT}.pack": b"PACK",
        f"git/objects/pack/pack-{COMMIT}.idx": b"index",
    }
    for name, content in contents.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
        (place / name).chmod(0o400)
    (place / "git/refs").mkdir()
    (place / "tree/link").symlink_to("folder/program")
    (place / "tree/folder/program").chmod(0o500)
    for folder in ("tree/folder", "tree", "git/refs", "git/objects/pack", "git/objects", "git"):
        (place / folder).chmod(0o500)


def raw(pack_fd: int, text: str, times: int = 1) -> None:
    """Write to the events what may be no event."""
    for _ in range(times):
        sys.stdout.write(text)
    sys.stdout.flush()


def send(pack_fd: int, size: int) -> None:
    """Write pack bytes."""
    while size:
        size -= os.write(pack_fd, bytes(min(size, 1 << 20)))


def receive(pack_fd: int) -> None:
    """Read pack bytes to the end."""
    while os.read(pack_fd, 1 << 20):
        continue


def await_outcome(pack_fd: int) -> None:
    """Wait for the outcome; note how much it was."""
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(3)
    say(pack_fd, {"event": "progress", "phase": "writing", "objects": len(line)})


def second_process(pack_fd: int) -> None:
    """Start a process that holds all pipes open and would stay, were it not bound to this one."""
    parent = os.getpid()
    if not os.fork():
        die_with_parent(parent)
        time.sleep(60)


def crashing_process(pack_fd: int) -> None:
    """Run a call in a second process that crashes, and go on."""
    with Forked(lambda: os.kill(os.getpid(), signal.SIGSEGV)) as second:
        second.succeeded()


def stubborn_process(pack_fd: int) -> None:
    """Start a process that holds all pipes open and stays."""
    if not os.fork():
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(60)


def escaping_process(pack_fd: int) -> None:
    """Start a process in a session of its own that has lost its parent, and so has what it starts; tell both ids."""
    reading, writing = os.pipe()
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.setsid()
            other = os.fork()
            if other:
                os.write(writing, json.dumps([os.getpid(), other]).encode())
            time.sleep(60)
        os._exit(0)
    os.wait()
    say(pack_fd, {"escaped": json.loads(os.read(reading, 100))})


def descriptors(pack_fd: int) -> None:
    """Tell which descriptors are open and where they lead, and the working directory."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that listed them
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    say(pack_fd, {"descriptors": found, "directory": os.getcwd()})


def signals(pack_fd: int) -> None:
    """Tell which signals are blocked and ignored, as masks in hexadecimal digits."""
    lines = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    say(pack_fd, {"blocked": lines["SigBlk"], "ignored": lines["SigIgn"]})


def inherited(pack_fd: int) -> None:
    """Tell the environment and who this process is."""
    say(pack_fd, {"environment": dict(os.environ), "users": os.getresuid(), "groups": os.getgroups()})


STEPS: dict[str, Callable[..., None]] = {
    "say": say,
    "leave": leave,
    "raw": raw,
    "send": send,
    "receive": receive,
    "await_outcome": await_outcome,
    "second_process": second_process,
    "crashing_process": crashing_process,
    "stubborn_process": stubborn_process,
    "escaping_process": escaping_process,
    "descriptors": descriptors,
    "signals": signals,
    "inherited": inherited,
    "sleep": lambda pack_fd, seconds: time.sleep(seconds),
    "close_pack": lambda pack_fd: os.close(pack_fd),
    "close_input": lambda pack_fd: os.close(0),
    "close_events": lambda pack_fd: os.close(1),
    "exit": lambda pack_fd, status: os._exit(status),
    "die": lambda pack_fd, number: os.kill(os.getpid(), number),
}
