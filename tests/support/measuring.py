"""What a clone or probe of the real pipeline costs and says, child by child."""

from __future__ import annotations

import base64
import json
import os
import re
import resource
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from coderepos.exceptions import CodeReposError
from coderepos.git.limits import MB
from coderepos.git.process import supervisor
from coderepos.git.process.process import Process
from coderepos.git.process.supervisor import Child

_SAMPLE_SECONDS: Final = 0.005


@dataclass
class Attempt:
    """How one clone or probe ended, and what it cost."""

    report: Any = None
    error: CodeReposError | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    """All that the children said."""

    cpu_seconds: float = 0
    """Of all children, their start included."""

    wall_seconds: float = 0
    peak_mb: dict[str, float] = field(default_factory=dict)
    """Largest resident set of each child since its start."""

    @property
    def code(self) -> str:
        """Code of the error, empty after a success."""
        return self.error.code if self.error else ""

    def said(self) -> str:
        """Return everything that a log, an error page or a row could show, the values of all frames included."""
        trace = (
            "".join(traceback.TracebackException.from_exception(self.error, capture_locals=True).format())
            if self.error
            else ""
        )
        fields = self.error.fields if self.error else {}
        return f"{trace}\n{self.error!r}\n{fields}\n{self.report!r}\n{json.dumps(self.events)}"


def attempt(call: Callable[[], Any]) -> Attempt:
    """Call what clones or probes, and measure the children that it starts."""
    made = Attempt()
    with _recorded(made.events) as started, _Sampler(started, made.peak_mb):
        cpu, wall = _children_seconds(), time.monotonic()
        try:
            made.report = call()
        except CodeReposError as error:
            made.error = error
        made.wall_seconds, made.cpu_seconds = time.monotonic() - wall, _children_seconds() - cpu
    return made


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _recorded(events: list[dict[str, Any]]) -> Iterator[dict[int, str]]:
    """Collect the children that are started, and all events of theirs, without a change to either."""
    children: dict[int, str] = {}
    start, hear = Process, Child.hear

    def recorded_start(command: list[str], pack_fd: int) -> Process:
        process = start(command, pack_fd)
        children[process.pid] = command[command.index("-c") + 2].rpartition(".")[2]
        return process

    def recorded_hear(child: Child) -> list[dict[str, Any]]:
        heard = hear(child)
        events.extend(heard)
        return heard

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "Process", recorded_start)
        patch.setattr(Child, "hear", recorded_hear)
        yield children


class _Sampler:
    """Watches the peak of each child and of what it forks; rusage would tell that of this process at the fork."""

    def __init__(self, children: dict[int, str], peak_mb: dict[str, float]) -> None:
        self._children: Final = children
        self._peak_mb: Final = peak_mb
        self._ended: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            for pid, name in list(self._children.items()):
                for one in (pid, *_forks(pid)):
                    self._peak_mb[name] = max(self._peak_mb.get(name, 0), _peak_mb(one))


def _forks(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return 0
    return int(found[1]) * 1_024 / MB if (found := re.search(r"VmHWM:\s+(\d+) kB", status)) else 0


def forms_of(secret: str) -> tuple[bytes, ...]:
    """Return how a secret may show: as it is, quoted, in hex, and in base64 wherever in a text it started."""
    raw = secret.encode()
    aligned = []
    for before in range(3):
        coded = base64.b64encode(bytes(before) + raw)
        # Characters at both ends depend on what stands around the secret.
        aligned.append(coded[(0, 2, 3)[before] : (len(raw) + before) * 8 // 6])
    return (raw, quote(secret, safe="").encode(), raw.hex().encode(), *aligned)


def found_in(folder: Path, forms: tuple[bytes, ...]) -> list[Path]:
    """Return the files below a folder whose content, name or target holds one of these."""
    found = []
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(at, name)
            text = os.fsencode(name)
            if path.is_symlink():
                text += os.fsencode(os.readlink(path))
            elif path.is_file():
                text += path.read_bytes()
            if any(form in text for form in forms):
                found.append(path)
    return found


def note(name: str, made: Attempt) -> None:
    """Add a line to the Markdown table that ``HOSTILE_TABLE`` names, if it names one."""
    if not (target := os.environ.get("HOSTILE_TABLE")):
        return
    with Path(target).open("a", encoding="utf-8") as file:
        if not file.tell():
            file.write(
                "| case | outcome | CPU s | wall s | fetch MB | build MB |\n| --- | --- | --: | --: | --: | --: |\n"
            )
        peaks = " | ".join(
            f"{made.peak_mb[child]:.0f}" if child in made.peak_mb else "" for child in ("fetch", "build")
        )
        outcome = "cloned" if "build" in made.peak_mb else "counted"
        if made.error:
            reason = made.error.fields.get("reason")
            outcome = f"`{made.code}`" + (f": {reason}" if reason else "")
        file.write(f"| {name} | {outcome} | {made.cpu_seconds:.2f} | {made.wall_seconds:.2f} | {peaks} |\n")
