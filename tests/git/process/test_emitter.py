from __future__ import annotations

import json
import os
import threading

import pytest

from coderepos.exceptions import RemoteProtocolError, TooManyRefs
from coderepos.git.process.emitter import TRACE_FRAMES, emit_to, error_event
from coderepos.git.wire import dump_line


def test_event_is_one_line_however_long() -> None:
    """An event that is larger than a pipe arrives whole, as one line of ASCII."""
    reader, writer = os.pipe()
    event = {"event": "outcome", "tags": [["refs/tags/é", "1" * 40]] * 5_000}

    def write() -> None:
        emit_to(writer)(event)
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reader, "rb") as stream:
        received = stream.read()
    thread.join()

    assert received == dump_line(event)
    assert received.count(b"\n") == 1
    assert json.loads(received) == event


def fail(secret: str) -> None:
    raise ValueError(secret)


def translate() -> None:
    try:
        fail("s3cret")
    except ValueError as error:
        raise RemoteProtocolError(reason="malformed answer") from error


def test_error_event_names_places_and_no_values() -> None:
    """The trace leads to where the error was raised and to its cause; no value is in it."""
    with pytest.raises(RemoteProtocolError) as caught:
        translate()

    event = error_event(caught.value)

    assert (event["event"], event["code"]) == ("error", "remote_protocol_error")
    assert event["fields"] == {"reason": "malformed answer"}
    assert [place.split()[1] for place in event["trace"]] == [
        "test_error_event_names_places_and_no_values",
        "translate",
        "translate",
        "fail",
    ]
    assert all(place.startswith("test_emitter.py:") for place in event["trace"])
    assert "s3cret" not in json.dumps(event)


def test_error_event_with_figures() -> None:
    """Figures of a limit travel as numbers, and an error without a cause has its places once."""
    with pytest.raises(TooManyRefs) as caught:
        raise TooManyRefs(figure=3, limit=2)

    event = error_event(caught.value)

    assert event["fields"] == {"figure": 3, "limit": 2}
    assert len(event["trace"]) == 1


def test_trace_is_bounded() -> None:
    """A deep recursion does not make a long event."""

    def deeper(levels: int) -> None:
        if not levels:
            raise RemoteProtocolError
        deeper(levels - 1)

    with pytest.raises(RemoteProtocolError) as caught:
        deeper(200)

    assert len(error_event(caught.value)["trace"]) == TRACE_FRAMES
