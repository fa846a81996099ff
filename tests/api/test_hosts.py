"""Our answers are the same in a host that does everything its own way."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from coderepos.models.database_clock import utc_text
from tests.support.database import connection
from tests.support.selection import sampled

Host = dict[str, Any]


@pytest.fixture(params=sampled(["", "--without-spectacular"], every=2))
def host(request: pytest.FixtureRequest) -> Host:
    """What callers get in that host, with drf-spectacular installed but unused, and without it."""
    return _played(request.param)


@cache  # not a fixture of the module: in random order it would be made anew all the time
def _played(option: str) -> Host:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.programs.other_host", *filter(None, [option])],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    result: Host = json.loads(done.stdout)
    return result


def test_schema_is_imported_by_who_has_the_generator(host: Host) -> None:
    """Nothing of drf-spectacular is imported where it is not among the installed apps."""
    assert host["schema_imported"] is False


def test_anonymous_callers_stay_outside(host: Host) -> None:
    """A host that lets anybody in by default does not let them in to us."""
    answer = host["answers"]["anonymous"]

    assert (answer["status"], answer["body"]["detail"]["error"]) == (401, "not_authenticated")
    assert answer["challenge"].startswith("Basic")


def test_answers_have_their_types(host: Host) -> None:
    """Sizes stay numbers, ids of projects strings, pages have our size."""
    details = host["answers"]["details"]["body"]

    assert (details["repo_id"], details["project_id"], details["repository_size_mb"]) == (host["repo_id"], "1", 1.5)
    assert host["answers"]["project"]["body"]["results"] == [details]
    assert host["answers"]["jobs"]["body"]["count"] == 1
    assert host["answers"]["status"]["body"]["attempt"] == 1


@pytest.mark.parametrize("name", ["created_at", "updated_at", "cloned_at"])
def test_times_are_utc(host: Host, name: str) -> None:
    """Without time zones in the database, and with a clock that is not UTC, times still are."""
    time = datetime.strptime(host["answers"]["details"]["body"][name], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)

    assert abs(datetime.now(UTC) - time) < timedelta(minutes=10)


def test_errors_have_our_shape(host: Host) -> None:
    """The host's handler is never asked; unknown and malformed keys of whatever type look the same."""
    failures = {name: answer for name, answer in host["answers"].items() if answer["status"] > 299}
    errors = {name: answer["body"]["detail"]["error"] for name, answer in failures.items()}

    assert errors == {
        "anonymous": "not_authenticated",
        "foreign": "not_found",
        "malformed": "not_found",
        "empty": "invalid_request",
        "list": "invalid_request",
        "bad_url": "invalid_git_url",
    }
    assert host["answers"]["foreign"] == host["answers"]["malformed"]
    assert set(host["answers"]["empty"]["body"]["detail"]["fields"]) == {"git_url", "project_id"}


def test_writing_works_in_a_transaction_per_request(host: Host) -> None:
    """A clone is queued in a host with ATOMIC_REQUESTS too."""
    assert host["answers"]["clone"]["status"] == 202
    assert host["answers"]["clone"]["body"]["clone_status"] == "PENDING"


def test_admin_works_with_a_project_model_that_is_not_ours(host: Host) -> None:
    """Pages show the host's projects, whose admin is unknown; ours is not registered beside it."""
    assert set(host["pages"].values()) == {200}
    assert host["project_admin"] is False


@pytest.mark.parametrize(
    ("vendor", "text"), [("sqlite", "2024-01-15T10:30:59Z"), ("postgresql", "2024-01-15T15:30:59Z")]
)
def test_naive_times_are_read_as_their_database_means_them(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, vendor: str, text: str
) -> None:
    """Without USE_TZ, SQLite's own clock is UTC all the same, while PostgreSQL's follows TIME_ZONE."""
    settings.TIME_ZONE = "America/New_York"
    monkeypatch.setattr(connection, "vendor", vendor)

    assert utc_text(datetime.fromisoformat("2024-01-15T10:30:59.999999")) == text
