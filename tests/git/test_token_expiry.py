"""When a token expires: what a host tells arrives in the reports, and nothing else does."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from coderepos.exceptions import InternalError
from coderepos.git.limits import Limits
from coderepos.git.messages import NetworkPolicy, token_expiry
from coderepos.git.pipeline import CloneRequest, Programs, clone
from coderepos.git.probe import probe
from tests.git.http_backend import GitServer, make_repository
from tests.git.scripted import BUILD, STARTED, outcome

pytestmark = pytest.mark.usefixtures("no_children_left")

SCRIPTED = Programs(fetch="tests.git.scripted", build="tests.git.scripted")
MOMENT = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)


def request_of(url: str, *, ref: str = "", policy: NetworkPolicy | None = None) -> CloneRequest:
    """Return a request without credentials."""
    return CloneRequest(
        url=url,
        credentials=None,
        ref=ref,
        depth=None,
        policy=policy or NetworkPolicy(),
        limits=Limits(),
        min_level=1,
        group_readable=False,
    )


def scripted(value: object) -> CloneRequest:
    """Return a request that the scripted child answers with ``value`` as the expiry."""
    script = [STARTED, ["send", 3], outcome(stopped_early=False, token_expires_at=value)]
    return request_of("https://git.example/r.git", ref=json.dumps(script))


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("2031-02-03T04:05:06Z", MOMENT),
        ("2031-02-03T06:05:06+02:00", MOMENT),
        (None, None),
        ("0001-01-01T00:00:00+14:00", None),
        ("1999-12-31T23:59:59Z", None),
        ("9999-12-31T23:59:59-14:00", None),
    ],
)
def test_sane_times_are_taken_in_utc(told: str | None, meant: datetime | None) -> None:
    """A time with its offset is read, and a year that no token lives to see is nothing."""
    assert token_expiry({"token_expires_at": told}) == meant
    assert token_expiry({}) is None


@pytest.mark.parametrize(
    "told",
    [
        "",
        "soon",
        "2031-02-03",
        "2031-02-03T04:05:06",
        "2031-02-30T04:05:06Z",
        "2031-02-03T04:05:06Z\n",
        "٢٠٣١-02-03T04:05:06Z",
        "x" * 10_000,
        0,
        1_900_000_000,
        True,
        ["2031-02-03T04:05:06Z"],
    ],
    ids=lambda told: repr(told)[:30],
)
def test_anything_else_is_the_childs_fault(told: object, tmp_path: Path) -> None:
    """A child that says what is no time misbehaves, in a probe and in a clone."""
    with pytest.raises(ValueError):  # noqa: PT011  whichever part refused it
        token_expiry({"token_expires_at": told})
    with pytest.raises(InternalError):
        probe(scripted(told), seconds=20, programs=SCRIPTED)


def test_clone_reports_it(tmp_path: Path) -> None:
    """What fetch tells is in the report of a clone; nonsense ends it."""

    def cloned(told: str) -> Any:
        (tmp_path / "script").write_text(json.dumps(BUILD))
        return clone(scripted(told), incoming=tmp_path, on_progress=lambda progress: None, programs=SCRIPTED)

    assert cloned("2031-02-03T04:05:06Z").token_expires_at == MOMENT
    with pytest.raises(InternalError):
        cloned("tomorrow")


@pytest.mark.parametrize(
    ("header", "meant"),
    [("2031-02-03 06:05:06 +0200", MOMENT), ("2031-02-03 04:05:06 UTC", MOMENT), ("never", None), (None, None)],
)
def test_header_of_a_real_server_arrives(tmp_path: Path, header: str | None, meant: datetime | None) -> None:
    """GitHub's header is read where the repository itself answers, for every host that sends it."""
    make_repository(tmp_path / "source")
    headers = {"github-authentication-token-expiration": header} if header else {}
    with GitServer(tmp_path, headers=headers) as server:
        report = probe(request_of(server.url("source"), policy=server.policy()), seconds=20)

    assert report.token_expires_at == meant
