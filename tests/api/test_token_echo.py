"""No answer, page or log ever repeats an access token, in whatever way a caller gets it wrong.

The first test proves that the search would find one.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.core.signals import got_request_exception
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter
from pytest_django import Settings
from rest_framework.test import APIClient

import coderepos
from coderepos import services
from coderepos.api.serializers import ConnectSerializer
from coderepos.exceptions import InvalidGitUrl
from tests.api.conftest import ADDRESS, TOKEN, connect

Body = dict[str, Any]

OURS = str(Path(coderepos.__file__).parent)

ODD_TOKEN = TOKEN + "<&\"'"
LONG_TOKEN = TOKEN * 200


def forms_of(token: str) -> set[bytes]:
    """Return how a token may look in an answer: raw, escaped, quoted or encoded."""
    core = TOKEN if TOKEN in token else token
    return {core.encode(), quote(core).encode(), b64encode(core.encode()).rstrip(b"="), core.encode().hex().encode()}


def assert_no_echo(haystack: bytes, token: str = TOKEN) -> None:
    """Fail where any form of the token, or a good part of it, is in ``haystack``."""
    parts = {TOKEN[:16].encode(), TOKEN[-16:].encode()}
    assert not [form for form in forms_of(token) | parts if form in haystack]


@pytest.fixture(params=["application/json", "text/html"])
def accept(request: pytest.FixtureRequest) -> str:
    """What the caller wants to see: data or a page."""
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["", "DEBUG"])
def _debug(request: pytest.FixtureRequest, settings: Settings) -> None:
    """Try it with DEBUG on too."""
    settings.DEBUG = request.param


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every record of every logger."""
    with caplog.at_level(logging.DEBUG):
        yield caplog


def test_the_search_finds_an_echo() -> None:
    """The control: an answer that repeats the token, in any form, is noticed."""
    for form in forms_of(TOKEN):
        with pytest.raises(AssertionError):
            assert_no_echo(b"<input value=" + form + b">")


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize(
    "token",
    [
        LONG_TOKEN,
        TOKEN + "\n",
        TOKEN + "\0",
        "\x1b[31m" + TOKEN,
        TOKEN + "\ud800",
        [TOKEN],
        [[TOKEN], {"a": TOKEN}],
        {"token": TOKEN},
        {TOKEN: 1},
        12345678901234567890123456789012,
        1.5,
        True,
    ],
    ids=["long", "newline", "NUL", "ESC", "surrogate", "list", "nested", "dict", "key", "int", "float", "bool"],
)
def test_bad_tokens_are_named_and_not_repeated(
    api: APIClient, connect_calls: list[Body], body: Body, token: object, accept: str, log: pytest.LogCaptureFixture
) -> None:
    """Whatever the type and content of the token, the answer says what is wrong with it and nothing of what it was."""
    document = json.dumps(body | {"access_token": token})
    response = api.post(f"{ADDRESS}/connect", document, content_type="application/json", headers={"accept": accept})

    assert response.status_code == 400
    assert list(response.data["detail"]["fields"]) == ["access_token"]
    assert_no_echo(response.content)
    assert b"1234567890123456789" not in response.content
    assert_no_echo(log.text.encode())
    assert connect_calls == []


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize("field", ["git_url", "ref", "username", "depth", "project_id", "unknown", TOKEN])
def test_tokens_in_a_wrong_field_are_not_repeated(
    api: APIClient, body: Body, field: str, accept: str, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """A token that was put elsewhere by mistake, and too long or with control characters at that, stays unseen too."""

    def refuse(**arguments: Any) -> None:
        raise InvalidGitUrl

    monkeypatch.setattr(services, "connect_repository", refuse)
    for value in (TOKEN, LONG_TOKEN, TOKEN + ":\n", [TOKEN], {TOKEN: TOKEN}):
        document = json.dumps(body | {field: value})
        response = api.post(f"{ADDRESS}/connect", document, content_type="application/json", headers={"accept": accept})

        assert response.status_code in (400, 422)
        assert_no_echo(response.content)
    assert_no_echo(log.text.encode())


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize("encoding", ["multipart/form-data", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("wrong", [{"depth": "many"}, {"git_url": ""}, {"access_token": ODD_TOKEN + "\n"}, {}])
def test_forms_do_not_come_back_filled(
    api: APIClient,
    connect_calls: list[Body],
    body: Body,
    encoding: str,
    wrong: Body,
    accept: str,
    log: pytest.LogCaptureFixture,
) -> None:
    """A form with a mistake, and one without, comes back without the token."""
    fields = body | {"access_token": ODD_TOKEN} | wrong
    if encoding == "multipart/form-data":
        response = api.post(f"{ADDRESS}/connect", fields, format="multipart", headers={"accept": accept})
    else:
        text = "&".join(f"{name}={quote(value)}" for name, value in fields.items())
        response = api.post(f"{ADDRESS}/connect", text, content_type=encoding, headers={"accept": accept})

    assert response.status_code == (400 if wrong else 201)
    assert_no_echo(response.content)
    assert_no_echo(log.text.encode())


@pytest.mark.usefixtures("_debug")
def test_malformed_json_is_not_repeated(api: APIClient, accept: str, log: pytest.LogCaptureFixture) -> None:
    """A document that breaks in the middle of the token is not quoted."""
    for document in ('{"access_token": "%s', '{"access_token": %s}', '{"access_token": "%s"} x', "%s", '{"a": "%s\n"}'):
        response = api.post(
            f"{ADDRESS}/connect", document % TOKEN, content_type="application/json", headers={"accept": accept}
        )

        assert response.status_code == 400
        assert_no_echo(response.content)
    assert_no_echo(log.text.encode())


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize("as_form", [False, True])
def test_crash_of_a_service_repeats_nothing(
    api: APIClient,
    body: Body,
    accept: str,
    as_form: bool,
    monkeypatch: pytest.MonkeyPatch,
    log: pytest.LogCaptureFixture,
) -> None:
    """Where a service crashes, neither the answer nor the log has the token; Django's debug page never shows."""

    def crash(**arguments: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(services, "connect_repository", crash)
    api.raise_request_exception = False
    response = api.post(
        f"{ADDRESS}/connect", body, format="multipart" if as_form else "json", headers={"accept": accept}
    )

    assert response.status_code == 500
    assert_no_echo(response.content)
    assert "boom" in log.text
    assert_no_echo(log.text.encode())


def test_traceback_with_local_variables_has_no_token(
    api: APIClient, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool that prints the variables of every frame finds only secrets that do not open."""

    def crash(**arguments: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(services, "connect_repository", crash)
    with pytest.raises(RuntimeError) as caught:
        connect(api, body)

    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [line for frame in frames.stack if frame.filename.startswith(OURS) for line in (frame.locals or {}).values()]
    assert any("connect_repository" in frame.line for frame in frames.stack if frame.line)
    assert_no_echo("".join(ours).encode())


@pytest.mark.parametrize("as_form", [False, True])
def test_report_to_the_operators_has_no_token(
    api: APIClient, body: Body, as_form: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report such as Django mails, with all variables and the whole form, leaves the token out."""

    def crash(**arguments: Any) -> None:
        raise RuntimeError("boom")

    reports = []

    def report(request: Any, **_: Any) -> None:
        reports.append(ExceptionReporter(request, *sys.exc_info()).get_traceback_html())

    monkeypatch.setattr(services, "connect_repository", crash)
    api.raise_request_exception = False
    got_request_exception.connect(report)
    try:
        api.post(f"{ADDRESS}/connect", body, format="multipart" if as_form else "json")
    finally:
        got_request_exception.disconnect(report)

    [page] = reports
    assert "boom" in page
    assert SafeExceptionReporterFilter.cleansed_substitute in page
    assert_no_echo(page.encode())


def test_representation_of_the_body_has_no_token(body: Body) -> None:
    """Whoever prints the serializer, or draws it as a form again, sees no token."""
    serializer = ConnectSerializer(data=body | {"depth": "many"})

    assert not serializer.is_valid()
    assert_no_echo(repr(serializer).encode())
    assert_no_echo(repr(serializer.validated_data).encode())
    assert serializer.data["access_token"] == ""
    assert_no_echo(repr(serializer.data).encode())
