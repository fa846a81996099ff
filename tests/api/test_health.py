"""``GET /health``: two words for load balancers, whoever asks, and soon."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.db.models.functions import Now
from django.test import Client
from pytest_django import Settings

from coderepos.models import Node
from coderepos.services.health import pulse, signs
from tests.api.conftest import ADDRESS

URL = f"{ADDRESS}/health"


@pytest.fixture(autouse=True)
def _no_earlier_answer() -> Iterator[None]:
    pulse._forget()
    yield
    pulse._forget()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A database that answers nothing; each question is in the list."""
    asked: list[str] = []
    release = threading.Event()

    def ask() -> signs.Signs:
        asked.append(threading.current_thread().name)
        release.wait(30)
        raise OperationalError("connection to db.internal failed for user coderepos")

    monkeypatch.setattr(pulse, "read_signs", ask)
    yield asked
    release.set()


@pytest.mark.django_db(transaction=True)
def test_two_words_say_it(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Anonymous callers learn whether jobs get done, and nothing else; no cache keeps it, and the log has why, once."""
    failing = client.get(URL)
    assert client.get(URL).status_code == 503
    assert [(record.name, record.message) for record in caplog.records if record.levelname == "ERROR"] == [
        ("coderepos.services.health.pulse", "Health: no worker is alive")
    ]
    Node.objects.create(name="worker-1")
    pulse._forget()
    healthy = client.get(URL)

    assert (failing.status_code, failing.json()) == (503, {"status": "failing"})
    assert (healthy.status_code, healthy.json()) == (200, {"status": "ok"})
    assert "no-store" in healthy["Cache-Control"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "headers",
    [
        {"accept": "application/xml"},
        {"accept": "text/html"},
        {"authorization": "Token nonsense"},
        {"cookie": "sessionid=nonsense"},
    ],
    ids=lambda headers: next(iter(headers.values())),
)
def test_whatever_a_monitor_sends_it_gets_json(client: Client, headers: dict[str, str], settings: Settings) -> None:
    """Neither what it accepts nor who it claims to be changes the answer."""
    answer = client.get(URL, headers=headers)

    assert (answer["Content-Type"], answer.json()) == ("application/json", {"status": "failing"})


@pytest.mark.django_db
def test_tests_of_a_host_see_their_own_rows(client: Client) -> None:
    """Inside of a transaction, where other threads would see none of them."""
    assert client.get(URL).status_code == 503
    Node.objects.create(name="worker-1")

    assert client.get(URL).status_code == 200


def test_other_methods_are_refused_as_everywhere(client: Client) -> None:
    """Nothing is sent to it, and the error has our shape."""
    answer = client.post(URL)

    assert (answer.status_code, answer.json()["detail"]["error"]) == (405, "method_not_allowed")


def test_a_database_that_fails_is_failing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer says nothing of host names or users."""

    def ask() -> signs.Signs:
        raise OperationalError("connection to db.internal failed for user coderepos")

    monkeypatch.setattr(pulse, "read_signs", ask)
    answer = client.get(URL)

    assert (answer.status_code, answer.json()) == (503, {"status": "failing"})


def test_a_database_that_hangs_holds_no_request_up(hanging: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of requests share one question, and none waits longer than for its answer."""
    monkeypatch.setattr(pulse, "WAIT_SECONDS", 0.5)
    answers: list[Any] = []
    callers = [threading.Thread(target=lambda: answers.append(Client().get(URL).status_code)) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)

    assert answers == [503] * 20
    assert len(hanging) == 1
    started = time.monotonic()
    assert Client().get(URL).status_code == 503
    assert time.monotonic() - started < 0.4, "a later request waits for what is known to hang"


def test_lost_questions_are_few(hanging: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that is never answered is given up, but not any number of them."""
    monkeypatch.setattr(pulse, "WAIT_SECONDS", 0)
    monkeypatch.setattr(pulse, "LOST_SECONDS", 0)
    for _ in range(pulse.MOST_LOST + 5):
        assert not pulse.is_healthy()

    deadline = time.monotonic() + 10
    while len(hanging) < pulse.MOST_LOST + 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(hanging) == pulse.MOST_LOST + 1


@pytest.mark.django_db(transaction=True)
def test_many_requests_are_one_question(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of anonymous requests does not reach the database."""
    Node.objects.create(name="worker-1")
    asked = []

    def ask() -> signs.Signs:
        asked.append(1)
        return signs.read_signs()

    monkeypatch.setattr(pulse, "FRESH_SECONDS", 600)
    monkeypatch.setattr(pulse, "read_signs", ask)

    assert {client.get(URL).status_code for _ in range(50)} == {200}
    assert len(asked) == 1


@pytest.mark.django_db(transaction=True)
def test_machines_that_are_silent_are_not_alive(client: Client) -> None:
    """What counts is a round of upkeep, not a row."""
    Node.objects.create(name="worker-1", last_seen=Now() - timedelta(seconds=100))

    assert client.get(URL).status_code == 503
