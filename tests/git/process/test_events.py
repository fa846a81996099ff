"""What is believed of a child's words, field by field."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, cast

import pytest

from coderepos.exceptions import (
    AskedToWait,
    CodeReposError,
    RemoteError,
    RepositoryTooLarge,
    UnsafeRepository,
    error_classes,
)
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.process import events
from coderepos.git.results import Progress
from coderepos.git.wire import BuildReport

START = Progress(phase="receiving", received_bytes=10, objects=5, total_objects=7)


@pytest.mark.parametrize(
    ("event", "after"),
    [
        ({}, START),
        ({"phase": "connecting", "received_bytes": 1, "objects": None}, START),
        ({"phase": "writing"}, Progress(phase="writing", received_bytes=10, objects=5, total_objects=7)),
        (
            {"received_bytes": 11, "objects": 6, "total_objects": 8},
            Progress(phase="receiving", received_bytes=11, objects=6, total_objects=8),
        ),
    ],
)
def test_progress_only_moves_on(event: dict[str, Any], after: Progress) -> None:
    """Phases and figures never go back."""
    assert events.progress(event, START) == after


@pytest.mark.parametrize(
    "event",
    [
        {"phase": "dancing"},
        {"phase": ["writing"]},
        {"objects": -1},
        {"objects": 2**60},
        {"objects": "many"},
        {"objects": True},
        {"received_bytes": 1.5},
    ],
)
def test_odd_progress_is_refused(event: dict[str, Any]) -> None:
    """Phases come from the list, figures are whole and in range."""
    with pytest.raises(ValueError, match=r"phase|figures"):
        events.progress(event, START)


def test_confinement_is_kept_as_it_is() -> None:
    """Level and plain facts are passed on."""
    facts = {"level": 3, "landlock_abi": 7, "tcp": True, "landlock_refused": "E2BIG"}

    assert events.isolation({"isolation": facts}) == facts


@pytest.mark.parametrize(
    "facts",
    [None, [], {}, {"level": 0}, {"level": 4}, {"level": "3"}, {"level": 3, "note": "\x1b[31m"}, {"level": [3]}],
)
def test_odd_confinement_is_refused(facts: object) -> None:
    """A level out of range or a text that could hurt a reader is no fact."""
    with pytest.raises(ValueError, match=r"isolation|fields"):
        events.isolation({"isolation": facts})


@pytest.mark.parametrize("code", sorted(events.ERRORS))
def test_every_error_of_a_child_is_rebuilt(code: str) -> None:
    """Each error that a child may have comes out as its own class with its public sentence."""
    rebuilt = events.error({"event": "error", "code": code, "fields": {}}, child="build")

    assert type(rebuilt) is error_classes()[code]
    assert rebuilt.message == type(rebuilt)().message


@pytest.mark.parametrize(
    "code", [*sorted(kind.code for kind in events.OURS_ALONE), "cancelled", "worker_lost", "not_found"]
)
def test_what_only_this_side_can_know_is_not_believed(code: str) -> None:
    """A child that took the job back to the queue, again and again, would never use up its attempts."""
    fields = {"needed_bytes": 1, "begins_again": True}
    with pytest.raises(ValueError, match="error"):
        events.error({"event": "error", "code": code, "fields": fields}, child="build")


def test_figures_are_part_of_the_sentence() -> None:
    """A limit with both figures names them; one that lacks a figure keeps the general sentence."""
    whole = events.error({"code": "too_many_refs", "fields": {"figure": 9, "limit": 5, "note": "x"}}, child="fetch")
    half = events.error({"code": "too_many_refs", "fields": {"figure": 9}}, child="fetch")

    assert "at least 9 refs; the limit is 5" in whole.message
    assert whole.fields == {"figure": 9, "limit": 5, "note": "x"}
    assert half.fields == {}


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"code": "no_such_code"},
        {"code": ["remote_timeout"]},
        {"code": "permission_denied"},
        {"code": "remote_protocol_error", "fields": {"remote_text": "it said: no"}},
        *(
            {"code": "remote_error", "fields": {"remote_text": odd}}
            for odd in ("x" * 201, "a\nb", "a\x1b[1m", "\u202e", "\ud800", 5, ["x"], None)
        ),
        {"code": "remote_error", "fields": {"remote_text": "x", "reason": "y: z"}},
        *(
            {"code": "unsafe_repository", "fields": odd}
            for odd in cast(
                "list[object]",
                [
                    [],
                    {"message": "what the server said"},
                    {"self": 1},
                    {"error": "not_found"},
                    {"kind": {}},
                    {"reason": "x" * 81},
                    {"reason": ""},
                    {"reason": "a\n"},
                    {"reason": "https://user:pw@host"},
                    {"reason": [1]},
                    {"reason": float("nan")},
                    {"reason": 2**60},
                    {"Reason": "x"},
                    {"reason ": "x"},
                    {f"f{number}": number for number in range(13)},
                ],
            )
        ),
    ],
)
def test_odd_errors_are_refused(event: dict[str, Any]) -> None:
    """No text of a server, no unknown class and no replaced sentence gets through."""
    with pytest.raises(ValueError, match=r"error|fields|remote text"):
        events.error(event, child="fetch")


def test_what_the_remote_reported() -> None:
    """Only this error carries text of the remote: one printable line."""
    error = events.error({"code": "remote_error", "fields": {"remote_text": "no: é <b>"}}, child="fetch")

    assert isinstance(error, RemoteError)
    assert error.fields == {"remote_text": "no: é <b>"}
    assert error.message == "The Git host reported an error: no: é <b>"


def test_an_error_is_raised_as_what_it_is() -> None:
    """Fields arrive by name."""
    error: CodeReposError = events.error({"code": "unsafe_repository", "fields": {"reason": "dot git"}}, child="build")

    assert isinstance(error, UnsafeRepository)
    assert error.fields == {"reason": "dot git"}
    assert not isinstance(error, RepositoryTooLarge)


POLICY = NetworkPolicy()


def test_place_to_which_a_repository_has_moved() -> None:
    """A child tells a path; the URL that users read is made here, of the origin that was asked."""
    event = {"code": "remote_moved", "fields": {"moved_to": "/new/name.git"}}

    error = events.error(event, child="fetch", url="HTTPS://Git.Example:443/old.git", policy=POLICY)

    assert error.fields == {"moved_to": "https://git.example/new/name.git"}
    assert "connect https://git.example/new/name.git instead" in error.message


@pytest.mark.parametrize(
    "path",
    ["", "new", "//evil.example/x", "/a/../b", "/a b", "/a\x1b[31m", "/a?b", "https://evil.example/x", 5, ["/a"]],
)
def test_odd_places_are_refused(path: object) -> None:
    """What is no path of a Git URL is no place either, nor is one where nobody was asked."""
    event = {"code": "remote_moved", "fields": {"moved_to": path}}

    with pytest.raises(ValueError, match="fields"):
        events.error(event, child="fetch", url="https://git.example/old.git", policy=POLICY)
    with pytest.raises(ValueError, match="fields"):
        events.error({"code": "remote_throttled", "fields": {"moved_to": "/new"}}, child="fetch")


@pytest.mark.parametrize(("told", "seconds"), [(7, 7), (2**50, 3_600), (-1, 0), (0, 0), ("7", 0), (7.5, 0), (True, 0)])
def test_wait_that_a_child_tells_is_bounded(told: object, seconds: int) -> None:
    """Whatever a child says that a host asked for, a job waits an hour at most."""
    error = events.error({"code": "remote_unavailable", "fields": {"retry_after_seconds": told}}, child="fetch")

    assert isinstance(error, AskedToWait)
    assert error.retry_after_seconds == seconds
    assert error.fields == ({"retry_after_seconds": seconds} if seconds else {})


def test_only_places_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The trace in the log holds files, lines and functions, whatever else a child puts there."""
    trace = ["build.py:7 main", "token ghp_secret", 5, "pack.py:120 <genexpr>"]

    events.error({"code": "internal_error", "trace": trace}, child="build")
    events.error({"code": "internal_error", "trace": "build.py:7 main"}, child="build")

    assert "build child ends with internal_error at build.py:7 main < pack.py:120 <genexpr>" in caplog.text
    assert "at an unknown place" in caplog.text
    assert "ghp_secret" not in caplog.text


REPORT: dict[str, Any] = {
    "commit_id": "1" * 40,
    "git_bytes": 1,
    "tree_bytes": 2,
    "objects": 3,
    "entries": 4,
    "substitutions": {"symlink": 1},
    "substituted_paths": ["symlink: \\xe9 é"],
    "seconds": {"scan": 0.1, "sync": 1},
}


def test_a_report_is_taken_as_it_is() -> None:
    """What the build child says in good order comes out again."""
    assert json.loads(json.dumps(asdict(BuildReport.from_json(REPORT)))) == REPORT


@pytest.mark.parametrize(
    "changed",
    [
        {"git_bytes": -1},
        {"tree_bytes": 10**30},
        {"objects": True},
        {"entries": 1.5},
        {"entries": None},
        {"substitutions": {"symlink": -1}},
        {"substitutions": {"symlink": 10**400}},
        {"substitutions": {"sym\x00link": 1}},
        {"substitutions": {"\ud800": 1}},
        {"substitutions": {"\u202e": 1}},
        {"substitutions": {"x" * 41: 1}},
        {"substitutions": {f"{'a' * number}": 1 for number in range(1, 22)}},
        {"substitutions": [["symlink", 1]]},
        {"substituted_paths": ["nul\x00"]},
        {"substituted_paths": ["\udce9"]},
        {"substituted_paths": ["\u202e"]},
        {"substituted_paths": ["c1 \x85"]},
        {"substituted_paths": ["\u3164"]},
        {"substituted_paths": ["x" * 4_001]},
        {"substituted_paths": ["x"] * 101},
        {"substituted_paths": [1]},
        {"seconds": {"scan": float("nan")}},
        {"seconds": {"scan": float("inf")}},
        {"seconds": {"scan": -1}},
        {"seconds": {"scan": 10**400}},
        {"seconds": {"s\ncan": 1}},
        {"commit_id": "1" * 41},
    ],
    ids=lambda changed: ascii(changed)[:40],
)
def test_a_report_that_could_not_be_stored_or_shown_is_refused(changed: dict[str, Any]) -> None:
    """No name, number or path of it fails a database, a JSON document or a terminal."""
    with pytest.raises(ValueError, match=r"numbers|substitut|seconds|object id"):
        BuildReport.from_json(REPORT | changed)
