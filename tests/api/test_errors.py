"""Errors of every origin have one shape, and nothing unexpected gets out of a view."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from django.core.exceptions import BadRequest, SuspiciousOperation
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.http import Http404, UnreadablePostError
from pytest_django import Settings
from rest_framework import exceptions
from rest_framework.authentication import SessionAuthentication
from rest_framework.settings import api_settings
from rest_framework.test import APIClient
from rest_framework.views import exception_handler

from coderepos import services
from coderepos.api.errors import describe
from coderepos.api.statuses import STATUS
from coderepos.api.views import RepositoryViewSet
from coderepos.exceptions import Throttled, error_classes
from coderepos.models import CodeRepository
from coderepos.projects.models import Project
from tests.api.conftest import ADDRESS, TOKEN, connect
from tests.support.database import connection

Body = dict[str, Any]
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


def detail_of(response: Any) -> dict[str, Any]:
    """Return the inside of an error body, after a look at its shape."""
    body = response.json()
    assert list(body) == ["detail"]
    assert {"error", "message"} <= set(body["detail"])
    assert all(isinstance(body["detail"][name], str) and body["detail"][name] for name in ("error", "message"))
    detail: dict[str, Any] = body["detail"]
    return detail


def test_every_code_has_a_status_and_every_status_a_code() -> None:
    """The table of statuses names exactly the codes that can be raised."""
    assert set(STATUS) == set(error_classes())


def test_no_error_of_a_remote_looks_like_one_of_the_caller() -> None:
    """401 is never the status of one of our own codes."""
    assert 401 not in STATUS.values()


@pytest.mark.parametrize("kind", error_classes().values(), ids=error_classes())
def test_every_error_of_ours_becomes_its_code_sentence_and_fields(kind: type[Any]) -> None:
    """The body has the code, the public sentence and the fields of the error, the status that of the table."""
    answer = describe(kind(reason="because"))

    assert (answer.status, answer.code, answer.message) == (STATUS[kind.code], kind.code, kind().message)
    assert answer.fields == {"reason": "because"}


def test_figures_of_a_limit_show() -> None:
    """A limit that was passed is told with both figures."""
    answer = describe(error_classes()["too_many_objects"](figure=600_000, limit=500_000))

    assert answer.fields == {"figure": 600_000, "limit": 500_000}
    assert "600,000" in answer.message


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (exceptions.ParseError("secret"), 400, "invalid_request"),
        (SuspiciousOperation("secret"), 400, "invalid_request"),
        (BadRequest("secret"), 400, "invalid_request"),
        (UnreadablePostError("secret"), 400, "invalid_request"),
        (exceptions.ValidationError({"depth": ["Too deep."]}), 400, "invalid_request"),
        (exceptions.ValidationError({"a": {"b": ["Nested."]}}), 400, "invalid_request"),
        (exceptions.ValidationError(["No field."]), 400, "invalid_request"),
        (exceptions.NotAuthenticated(), 401, "not_authenticated"),
        (exceptions.AuthenticationFailed(), 401, "not_authenticated"),
        (exceptions.PermissionDenied(), 403, "permission_denied"),
        (DjangoPermissionDenied("secret"), 403, "permission_denied"),
        (exceptions.NotFound("secret"), 404, "not_found"),
        (Http404("secret"), 404, "not_found"),
        (exceptions.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (exceptions.NotAcceptable(), 406, "not_acceptable"),
        (exceptions.UnsupportedMediaType("secret"), 415, "unsupported_media_type"),
        (exceptions.Throttled(), 429, "throttled"),
        (exceptions.APIException("secret"), 500, "internal_error"),
        (ValueError("secret"), 500, "internal_error"),
        (KeyError("secret"), 500, "internal_error"),
    ],
)
def test_errors_of_the_frameworks_get_our_codes(error: Exception, status: int, code: str) -> None:
    """What REST framework or Django raise has a code of ours, without the text of whoever raised it."""
    answer = describe(error)

    assert (answer.status, answer.code) == (status, code)
    assert "secret" not in f"{answer.message}{answer.fields}"


def test_fields_are_lists_of_sentences() -> None:
    """However REST framework nests its details, a field has a flat list of sentences."""
    detail: dict[str, Any] = {"depth": ["One.", {"x": ["Two."]}], "ref": "Three."}

    assert describe(exceptions.ValidationError(detail)).fields == {
        "fields": {"depth": ["One.", "Two."], "ref": ["Three."]}
    }


@pytest.mark.parametrize(
    ("error", "seconds"),
    [(exceptions.Throttled(wait=12.2), 13), (Throttled(retry_after_seconds=7), 7), (exceptions.Throttled(), None)],
)
def test_throttles_say_when_to_come_back(error: Exception, seconds: int | None) -> None:
    """The seconds are in the header and in the body, for the user's limit and for the project's alike."""
    answer = describe(error)

    assert answer.fields.get("retry_after_seconds") == seconds
    assert answer.headers.get("Retry-After") == (None if seconds is None else str(seconds))


@pytest.mark.parametrize(
    "path",
    ["/repos", f"/repos/{UNKNOWN_ID}", f"/repos/{UNKNOWN_ID}/status", f"/repos/{UNKNOWN_ID}/jobs", "/projects/1/repos"],
)
def test_anonymous_callers_get_a_401_everywhere(db: None, path: str) -> None:
    """Without credentials every address answers alike, whether there is something behind it or not."""
    response = APIClient().get(ADDRESS + path)

    assert response.status_code == 401
    assert detail_of(response)["error"] == "not_authenticated"
    assert response["WWW-Authenticate"] == "Token"


def test_anonymous_callers_cannot_write(db: None, body: Body, repository: CodeRepository) -> None:
    """Connecting and cloning need credentials before anything is looked at."""
    assert connect(APIClient(), body).status_code == 401
    assert APIClient().post(f"{ADDRESS}/repos/{repository.pk}/clone").status_code == 401


def test_401_becomes_403_where_the_host_offers_no_challenge(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of both an anonymous caller gets follows the first way to authenticate, as everywhere in REST framework."""
    monkeypatch.setattr(RepositoryViewSet, "authentication_classes", (SessionAuthentication,))
    response = APIClient().get(f"{ADDRESS}/repos")

    assert response.status_code == 403
    assert detail_of(response)["error"] == "not_authenticated"
    assert "WWW-Authenticate" not in response


def test_wrong_credentials_are_a_401(db: None) -> None:
    """A key that nobody has is as good as none."""
    response = APIClient(headers={"authorization": "Token nobody"}).get(f"{ADDRESS}/repos")

    assert response.status_code == 401
    assert detail_of(response)["error"] == "not_authenticated"


def test_handler_of_the_host_stays_its_own() -> None:
    """Errors of the host's other views look as before."""
    assert api_settings.EXCEPTION_HANDLER is exception_handler


def test_session_without_csrf_token_is_refused_in_our_shape(developer: Any, body: Body) -> None:
    """A form from elsewhere that rides on a session is a 403 that says why."""
    api = APIClient(enforce_csrf_checks=True)
    api.force_login(developer)
    response = connect(api, body)

    assert response.status_code == 403
    assert detail_of(response)["error"] == "permission_denied"
    assert "CSRF" in detail_of(response)["message"]


@pytest.mark.parametrize(
    "malformed",
    ["x", "1", "not-a-uuid", UNKNOWN_ID.replace("-", ""), f"{{{UNKNOWN_ID}}}", f"urn:uuid:{UNKNOWN_ID}", "%00", "é"],
)
@pytest.mark.parametrize("rest", ["", "/status", "/jobs"])
def test_malformed_ids_look_unknown(api: APIClient, malformed: str, rest: str) -> None:
    """An id that is no UUID is the same 404 as one that nobody has."""
    malformed_answer = api.get(f"{ADDRESS}/repos/{malformed}{rest}")
    unknown_answer = api.get(f"{ADDRESS}/repos/{UNKNOWN_ID}{rest}")

    assert malformed_answer.status_code == unknown_answer.status_code == 404
    assert malformed_answer.content == unknown_answer.content
    assert detail_of(malformed_answer)["error"] == "not_found"


@pytest.mark.parametrize("malformed", ["x", "1", "%00", UNKNOWN_ID])
def test_malformed_projects_look_unknown(api: APIClient, malformed: str) -> None:
    """A project is not found by a key that is malformed, in the path and in the query string alike."""
    in_path = api.get(f"{ADDRESS}/projects/{malformed}/repos")

    assert in_path.status_code == 404
    assert detail_of(in_path)["error"] == "not_found"
    if malformed != "%00":
        assert api.get(f"{ADDRESS}/repos?project={malformed}").content == in_path.content


def test_foreign_projects_look_unknown(api: APIClient, other_project: Project) -> None:
    """Somebody else's project is the same 404 as one that does not exist."""
    foreign, unknown = (api.get(f"{ADDRESS}/projects/{key}/repos") for key in (other_project.pk, UNKNOWN_ID))

    assert foreign.status_code == unknown.status_code == 404
    assert foreign.content == unknown.content
    assert api.get(f"{ADDRESS}/repos?project={other_project.pk}").content == unknown.content


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
def test_other_methods_are_a_405(api: APIClient, method: str) -> None:
    """Connecting is a POST and nothing else."""
    response = getattr(api, method)(f"{ADDRESS}/connect")

    assert response.status_code == 405
    assert detail_of(response)["error"] == "method_not_allowed"
    assert "POST" in response["Allow"]


def test_unknown_content_type_is_a_415(api: APIClient) -> None:
    """A body that nobody can parse is named by its type, not repeated."""
    response = api.post(f"{ADDRESS}/connect", "<a>secret</a>", content_type="application/secret+xml")

    assert response.status_code == 415
    assert detail_of(response)["error"] == "unsupported_media_type"
    assert b"secret" not in response.content


def test_unknown_accept_is_a_406_in_json(api: APIClient) -> None:
    """A caller who takes no format of ours is told so in JSON."""
    response = api.get(f"{ADDRESS}/repos", headers={"accept": "image/png"})

    assert response.status_code == 406
    assert detail_of(response)["error"] == "not_acceptable"


def test_unknown_format_in_the_query_is_a_404(api: APIClient) -> None:
    """An unknown ``format`` answers in our shape too."""
    assert detail_of(api.get(f"{ADDRESS}/repos?format=xml"))["error"] == "not_found"


@pytest.mark.parametrize(
    ("content_type", "document"),
    [
        ("application/json", b'{"access_token": "%s", ' % TOKEN.encode()),
        ("application/json", b'{"access_token": \xff}'),
        ("application/json", b'{"depth": NaN}'),
        ("application/json", b"[" * 60_000),
        ("multipart/form-data", b"--x"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; nam"),
        ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % n for n in range(1_100))),
    ],
)
def test_bodies_that_cannot_be_read_are_a_400(api: APIClient, content_type: str, document: bytes) -> None:
    """Malformed, endlessly nested and overfull documents are the caller's mistake, and are not repeated."""
    response = api.post(f"{ADDRESS}/connect", document, content_type=content_type)

    assert response.status_code == 400
    assert detail_of(response)["error"] == "invalid_request"
    assert "fields" in detail_of(response)
    assert TOKEN.encode() not in response.content


def test_large_bodies_are_refused_unread(api: APIClient, body: Body, connect_calls: list[Body]) -> None:
    """A body that no honest call needs is refused by its announced length."""
    response = connect(api, body | {"more": "x" * 70_000})

    assert response.status_code == 400
    assert "65,536" in json.dumps(detail_of(response))
    assert connect_calls == []


class TestUnexpected:
    """What a programmer's mistake looks like from outside."""

    @pytest.fixture
    def api(self, api: APIClient, monkeypatch: pytest.MonkeyPatch) -> APIClient:
        """A client of an API whose services fail with a text that nobody may see."""

        def fail(**arguments: Any) -> None:
            raise RuntimeError("the text of a mistake")

        monkeypatch.setattr(services, "connect_repository", fail)
        monkeypatch.setattr(services, "clone_repository", fail)
        api.raise_request_exception = False
        return api

    @pytest.mark.parametrize("debug", [False, True])
    @pytest.mark.parametrize("accept", ["application/json", "text/html"])
    def test_answer_is_ours_without_a_text(
        self, api: APIClient, body: Body, settings: Settings, debug: bool, accept: str
    ) -> None:
        """It is a 500 in our shape, without a word of the exception, even where DEBUG would show a page of it."""
        settings.DEBUG = debug
        response = api.post(f"{ADDRESS}/connect", body, format="json", headers={"accept": accept})

        assert response.status_code == 500
        assert response.data["detail"]["error"] == "internal_error"
        assert b"mistake" not in response.content
        assert b"RuntimeError" not in response.content
        assert TOKEN.encode() not in response.content

    def test_it_is_logged_with_its_traceback(
        self, api: APIClient, body: Body, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The operator finds where it happened."""
        with caplog.at_level(logging.ERROR, "coderepos.api.errors"):
            connect(api, body)

        [record] = [record for record in caplog.records if record.name == "coderepos.api.errors"]
        assert "ConnectViewSet" in record.getMessage()
        assert "Traceback" in caplog.text
        assert "the text of a mistake" in caplog.text
        assert TOKEN not in caplog.text

    def test_it_is_reported_like_any_uncaught_exception(self, api: APIClient, body: Body) -> None:
        """Whoever listens for uncaught exceptions of Django, such as its test client, hears of it."""
        api.raise_request_exception = True

        with pytest.raises(RuntimeError, match="mistake"):
            connect(api, body)

    @pytest.mark.django_db(transaction=True)
    def test_transaction_of_the_request_is_undone(
        self, api: APIClient, repository: CodeRepository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the host wants one transaction per request, a failed request leaves nothing behind."""

        def write_and_fail(**arguments: Any) -> None:
            assert connection.in_atomic_block
            CodeRepository.objects.filter(pk=repository.pk).update(ref="half done")
            raise RuntimeError

        monkeypatch.setattr(services, "clone_repository", write_and_fail)
        monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", value=True)

        assert api.post(f"{ADDRESS}/repos/{repository.pk}/clone").status_code == 500

        repository.refresh_from_db(fields=["ref"])
        assert repository.ref == ""
