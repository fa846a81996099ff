"""What a clone or probe of the real pipeline costs and says, child by child."""

from __future__ import annotations

import base64
import json
import os
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
from coderepos.git.process.child import Child

_SAMPLE_SECONDS: Final = 0.005


@dataclass
class Attempt:
    """How one clone or probe ended, and what it cost."""

    report: Any = None
    error: CodeReposError | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    """All that the children said."""

    cpu_seconds: float = 0
    """Of all children, since each was forked."""

    wall_seconds: float = 0
    peak_mb: dict[str, float] = field(default_factory=dict)
    """Largest resident set of each child."""

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
    with _recorded(made):
        wall = time.monotonic()
        try:
            made.report = call()
        except CodeReposError as error:
            made.error = error
        made.wall_seconds = time.monotonic() - wall
    return made


@contextmanager
def _recorded(made: Attempt) -> Iterator[None]:
    """Collect what the children say and take, without a change to either."""
    read_events, end = Child.read_events, Child.end

    def recorded_read(child: Child) -> list[dict[str, Any]]:
        heard = read_events(child)
        made.events.extend(heard)
        return heard

    def recorded_end(child: Child) -> None:
        end(child)
        made.cpu_seconds += child.usage.get("cpu_seconds", 0)
        made.peak_mb[child.name] = max(made.peak_mb.get(child.name, 0), child.usage.get("peak_bytes", 0) / MB)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Child, "read_events", recorded_read)
        patch.setattr(Child, "end", recorded_end)
        yield


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
