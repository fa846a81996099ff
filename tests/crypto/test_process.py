"""Closing a process never keeps it from its work."""

from __future__ import annotations

import builtins
import io
import logging
from typing import Any

import pytest
from pytest_django import Settings

from coderepos.crypto import process

KEY = "a" * 43 + "="


@pytest.mark.parametrize("stat", [None, b"1 (python) S " + b"0 " * 50])
def test_a_system_that_tells_nothing_is_no_obstacle(
    stat: bytes | None,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without ``/proc``, or with one that hides addresses, it is logged and the process goes on."""
    settings.CODEREPOS = {**settings.CODEREPOS, "MASTER_ENCRYPTION_KEY": KEY}
    monkeypatch.setenv("SOME_NAME", f"before {KEY} after")
    monkeypatch.setattr(process, "_libc", type("Libc", (), {"prctl": lambda *_: -1}))

    def opened(name: str, *arguments: Any) -> Any:
        if stat is None:
            raise FileNotFoundError(2, "No such file", name)
        return io.BytesIO(stat)

    monkeypatch.setattr(builtins, "open", opened)
    with caplog.at_level(logging.WARNING):
        process.close_process()
    monkeypatch.undo()

    assert [record.levelname for record in caplog.records if record.name == process.__name__] == ["WARNING"] * 2
    assert KEY not in caplog.text
