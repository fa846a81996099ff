"""What Git hosts answer instead of a repository, and what users are told about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from coderepos.git.transport.response_errors import retry_after
from tests.support.servers.hostile import HostileServer, v2_server
from tests.support.servers.http_server import Exchange
from tests.support.site import TOKEN, Site

pytestmark = pytest.mark.of_any_database

Answer = Callable[[Exchange], None]


class Switch:
    """A Git host that is well for as long as :attr:`answer` is not set."""

    def __init__(self) -> None:
        self.answer: Answer = v2_server()

    def __call__(self, exchange: Exchange) -> None:
        self.answer(exchange)


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
def host(switch: Switch, site: Site) -> Iterator[HostileServer]:
    with HostileServer(switch) as running:
        site.trust(running)
        yield running


def says(status: int, content_type: str = "text/html", **headers: str) -> Answer:
    return lambda exchange: exchange.answer(b"<html>", content_type, status, **headers)


WAITS = [
    (429, "remote_throttled", "120", 120),
    (503, "remote_unavailable", "120", 120),
    (403, "remote_throttled", "120", 120),
    (502, "remote_unavailable", "120", 120),
    (429, "remote_throttled", "999999999", 3_600),
    (429, "remote_throttled", "9" * 20, 3_600),
    (429, "remote_throttled", "Fri, 31 Dec 9999 23:59:59 -2359", 3_600),
    (429, "remote_throttled", "", None),
    (429, "remote_throttled", "soon", None),
    (503, "remote_unavailable", "-5", None),
    (503, "remote_unavailable", "0", None),
    (503, "remote_unavailable", "Wed, 21 Oct 2015 07:28:00 GMT", None),
]


@pytest.mark.parametrize(("status", "code", "value", "seconds"), WAITS)
def test_host_that_asks_to_wait_at_connect(
    site: Site, host: HostileServer, switch: Switch, status: int, code: str, value: str, seconds: int | None
) -> None:
    """429 and 503 are told as what they are, with the host's own wait of at most an hour.

    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
    """
    switch.answer = says(status, Retry_After=value)

    answer = site.connect(host.url, access_token=TOKEN)

    detail = answer.json()["detail"]
    assert (answer.status_code, detail["error"]) == (503, code)
    assert detail.get("retry_after_seconds") == seconds
    assert answer.headers.get("Retry-After") == (None if seconds is None else str(seconds))
    assert "check the URL" not in detail["message"]
    assert seconds is None or f"{seconds} s" in detail["message"]


def test_dates_of_retry_after() -> None:
    """A date counts from the host's own clock where it tells that, and from ours otherwise (RFC 9110, 10.2.3)."""
    later = datetime.now(UTC) + timedelta(seconds=90)

    assert 85 <= (retry_after({"retry-after": format_datetime(later, usegmt=True)}) or 0) <= 90
    wrong_clock = {"date": "Wed, 21 Oct 2015 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2015 07:30:00 GMT"}
    assert retry_after(wrong_clock) == 120
    for text in ("Wednesday, 21-Oct-15 07:30:00 GMT", "Wed Oct 21 07:30:00 2015"):
        assert retry_after({**wrong_clock, "retry-after": text}) == 120
    used_up = {"date": "Wed, 21 Oct 2015 07:28:00 GMT", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1445412600"}
    assert retry_after(used_up) == 120
    assert retry_after({**used_up, "retry-after": "60"}) == 60
    assert retry_after({**used_up, "x-ratelimit-remaining": "1"}) is None
    for text in ("", "Wed, 99 Oct 2015 07:28:00 GMT", "1.5", "1" * 400):
        assert retry_after({"retry-after": text}) is None


def test_job_waits_as_long_as_the_host_asks(site: Site, host: HostileServer, switch: Switch) -> None:
    """The next attempt of a clone is not before the host's wait is over, and the status says when that is."""
    repo_id = site.connected(host.url, access_token=TOKEN)
    switch.answer = says(429, Retry_After="1800")

    assert site.work(repo_id) == "retry_scheduled"

    status = site.status(repo_id)
    assert (status["clone_status"], status["error_code"]) == ("PENDING", "remote_throttled")
    assert (status["retryable"], status["token_status"]) == (True, "ok")
    assert "1800 s" in status["error_message"]
    assert "the next one starts in 1" in status["progress_message"]
    assert status["next_attempt_at"] in status["progress_message"]
    wait = site.job(repo_id).next_attempt_at - datetime.now(UTC)  # type: ignore[operator]
    assert timedelta(seconds=1_700) < wait <= timedelta(seconds=1_800)


def test_short_wait_does_not_shorten_ours(site: Site, host: HostileServer, switch: Switch) -> None:
    """A host that asks for less than the usual pause between attempts gets the usual pause."""
    repo_id = site.connected(host.url, access_token=TOKEN)
    switch.answer = says(503, Retry_After="1")

    assert site.work(repo_id) == "retry_scheduled"

    wait = site.job(repo_id).next_attempt_at - datetime.now(UTC)  # type: ignore[operator]
    assert timedelta(seconds=50) < wait <= timedelta(seconds=60)


@pytest.mark.parametrize("status", [408, 500, 502, 504])
def test_error_of_the_host_is_not_a_wrong_url(site: Site, host: HostileServer, switch: Switch, status: int) -> None:
    """A host that answers with an error of its own is not one that cannot be reached."""
    switch.answer = says(status)

    answer = site.connect(host.url)

    detail = answer.json()["detail"]
    assert (answer.status_code, detail["error"], detail["http_status"]) == (502, "remote_unreachable", status)
    assert "answered with an error" in detail["message"]


@pytest.mark.parametrize("written", ["/old/name.git", "/old/name"])
@pytest.mark.parametrize("status", [301, 307])
@pytest.mark.parametrize("absolute", [True, False])
def test_repository_that_was_renamed(
    site: Site, host: HostileServer, switch: Switch, written: str, status: int, absolute: bool
) -> None:
    """A move on the same host is named, what was named can be connected, and nothing was sent there before.

    https://github.com/jelmer/dulwich/issues/117
    """
    well = v2_server()

    def renamed(exchange: Exchange) -> None:
        if exchange.path.startswith("/new/name.git/"):
            well(exchange)
        else:
            origin = f"http://{host.host}" if absolute else ""
            location = f"{origin}/new/name.git/info/refs?service=git-upload-pack"
            exchange.answer(b"", "text/html", status, Location=location)

    switch.answer = renamed
    answer = site.connect(f"http://{host.host}{written}", access_token=TOKEN)

    detail = answer.json()["detail"]
    moved_to = f"http://{host.host}/new/name.git"
    assert (answer.status_code, detail["error"], detail["moved_to"]) == (422, "remote_moved", moved_to)
    assert f"connect {moved_to} instead" in detail["message"]
    assert not [request for request in host.requests if request.path.startswith("/new/")]
    site.connected(detail["moved_to"], access_token=TOKEN)


def test_repository_that_was_renamed_after_it_was_connected(site: Site, host: HostileServer, switch: Switch) -> None:
    """A clone ends with the new URL in its error, at once: the same request would lead to the same answer."""
    repo_id = site.connected(host.url, access_token=TOKEN)
    switch.answer = says(308, Location="/new/name.git/info/refs?service=git-upload-pack")

    assert site.work(repo_id) == "failed"

    status = site.status(repo_id)
    assert (status["error_code"], status["retryable"], status["token_status"]) == ("remote_moved", False, "ok")
    assert f"connect http://{host.host}/new/name.git instead" in status["error_message"]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://127.0.0.2/new.git/info/refs?service=git-upload-pack", "redirect to another host"),
        ("//127.0.0.2/new.git/info/refs?service=git-upload-pack", "redirect to another host"),
        ("https://{host}/new.git/info/refs?service=git-upload-pack", "redirect to another host"),
        ("http://user@{host}/new.git/info/refs", "redirect"),
        ("http://{host}/../new.git/info/refs", "redirect"),
        ("http://{host}/n\x1bew.git/info/refs", "redirect"),
        ("http://{host}/new%00.git/info/refs", "redirect"),
        ("http://{host}/info/refs", "redirect"),
        ("http://{host}/" + "x" * 3_000 + "/info/refs", "redirect"),
        ("http://{host}/" + TOKEN + "/info/refs", "redirect"),
        ("http://{host}/" + TOKEN.replace("_", "%5f") + "/info/refs", "redirect"),
        ("http://{host}/owner/repository.git/info/refs?service=git-upload-pack", "redirect"),
        ("http://[::1/new.git/info/refs", "redirect"),
        ("/git-upload-pack", "redirect"),
    ],
)
def test_redirect_that_is_not_named(
    site: Site, host: HostileServer, switch: Switch, location: str, reason: str
) -> None:
    """Another origin, a URL that would not be taken, or one that shows the token: no word of it is repeated."""
    switch.answer = lambda exchange: exchange.answer(b"", "text/html", 301, Location=location.format(host=host.host))

    answer = site.connect(host.url, access_token=TOKEN)

    detail = answer.json()["detail"]
    assert detail["error"] in ("remote_protocol_error", "remote_auth_failed")
    assert detail.get("reason", "http") in (reason, "http")
    assert "moved_to" not in detail
    assert TOKEN not in answer.text
    assert "127.0.0.2" not in answer.text


SIGN_IN_PAGES = {
    "203": says(203),
    "302": says(302, Location="https://login.example.org/_signin?reply_to=%2Finfo%2Frefs"),
    "303": says(303, Location="/users/sign_in"),
    "200": says(200),
    "401": says(401),
    "403": says(403),
}


@pytest.mark.parametrize("page", SIGN_IN_PAGES)
def test_dead_token_is_answered_by_a_page(site: Site, host: HostileServer, switch: Switch, page: str) -> None:
    """A page for signing in means that the token is refused, at connect and in a job, whose token_status says so.

    https://github.com/go-git/go-git/issues/2201
    """
    repo_id = site.connected(host.url, access_token=TOKEN)
    switch.answer = SIGN_IN_PAGES[page]

    answer = site.connect(host.url, access_token=TOKEN, ref="main")
    assert (answer.status_code, answer.json()["detail"]["error"]) == (422, "remote_auth_failed")

    assert site.work(repo_id) == "failed"
    status = site.status(repo_id)
    assert (status["clone_status"], status["error_code"]) == ("FAILED", "remote_auth_failed")
    assert status["token_status"] == "refused"
    assert "token" in status["error_message"]


@pytest.mark.parametrize("page", ["203", "302", "303", "200"])
def test_page_without_a_token(site: Site, host: HostileServer, switch: Switch, page: str) -> None:
    """Where no token was sent, the user is told that one may be needed."""
    switch.answer = SIGN_IN_PAGES[page]

    detail = site.connect(host.url).json()["detail"]

    assert detail["error"] == "remote_protocol_error"
    assert "give a token where the repository is private" in detail["message"]


def test_answer_that_a_proxy_has_changed(site: Site, host: HostileServer, switch: Switch) -> None:
    """203 with what was asked for is what a transforming proxy makes of 200 (RFC 9110, 15.3.4); git takes it too."""
    well = v2_server()

    def changed(exchange: Exchange) -> None:
        head = exchange.head
        exchange.head = lambda status=200, **headers: head(203 if status == 200 else status, **headers)  # type: ignore[method-assign]
        well(exchange)

    switch.answer = changed

    site.connected(host.url, access_token=TOKEN)


@pytest.mark.slow
def test_silence_before_the_first_byte(site: Site, host: HostileServer, switch: Switch) -> None:
    """A host may be silent for as long as the configured time, and is given up when that is over.

    https://github.com/jelmer/dulwich/issues/799
    """
    well = v2_server()

    def slow(exchange: Exchange) -> None:
        if exchange.is_advertisement:
            exchange.wait(11)
        well(exchange)

    switch.answer = slow
    site.trust(host, PROBE_TIMEOUT=15)
    site.connected(host.url)

    site.trust(host, PROBE_TIMEOUT=1)
    started = time.monotonic()
    answer = site.connect(host.url, ref="main")
    assert (answer.status_code, answer.json()["detail"]["error"]) == (504, "remote_timeout")
    assert time.monotonic() - started < 3
