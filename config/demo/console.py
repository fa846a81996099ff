"""What the demo writes, on a terminal and into a log."""

from __future__ import annotations

import json
import time
from typing import Any, Final, TextIO

BAR_CELLS: Final = 30
INDENT: Final = " " * 10


class Console:
    """Writes steps, facts and a progress bar to ``stream``.

    :param secrets: texts that never reach the stream, whatever is written.
    """

    def __init__(self, stream: TextIO, *, secrets: tuple[str, ...] = ()) -> None:
        self._stream = stream
        self._secrets = secrets
        self._live = stream.isatty()
        self._last_bar = ""
        self._started = time.monotonic()

    def step(self, text: str) -> None:
        """Begin a part of the story."""
        self._write(f"\n[{time.monotonic() - self._started:5.1f} s] {text}\n")

    def line(self, text: str = "") -> None:
        """Write one fact; what comes from a repository cannot control the terminal."""
        self._write(f"{INDENT}{printable(text)}\n")

    def request(self, body: Any) -> None:
        """Write the body of a request."""
        self._json("", body)

    def answer(self, status: int, body: Any) -> None:
        """Write an answer of the API."""
        self._json(f"HTTP {status} ", body)

    def bar(self, percent: float | None, text: str) -> None:
        """Draw the bar anew on a terminal; elsewhere write a line whenever there is news."""
        cells = round(BAR_CELLS * (percent or 0) / 100)
        drawing = f"[{'#' * cells}{'.' * (BAR_CELLS - cells)}] {text}"
        if drawing != self._last_bar:
            self._last_bar = drawing
            self._write(f"\r\x1b[2K{INDENT}{drawing}" if self._live else f"{INDENT}{drawing}\n")

    def end_bar(self) -> None:
        """Leave the bar as it is and go on below it."""
        if self._live and self._last_bar:
            self._write("\n")
        self._last_bar = ""

    def _json(self, title: str, body: Any) -> None:
        for number, text in enumerate(json.dumps(body, indent=2, ensure_ascii=False).splitlines()):
            self.line(text if number else title + text)

    def _write(self, text: str) -> None:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        self._stream.write(text)
        self._stream.flush()


def printable(text: str) -> str:
    """Return ``text`` with everything escaped that a terminal would act upon or cannot show."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
