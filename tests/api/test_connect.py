"""Connecting a repository: what goes to the service, what comes back, what is refused before it."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from pytest_django import Settings
from rest_framework.test import APIClient

from coderepos import services
from coderepos.crypto.secret import Secret
from coderepos.exceptions import AlreadyConnected, CodeReposError, InvalidGitUrl, RemoteAuthFailed, RepositoryTooLarge
from tests.api.conftest import ADDRESS, TOKEN, ClientOf, connect
from tests.support.database import connection

Calls = list[dict[str, Any]]
Body = dict[str, Any]


def refuse_with(monkeypatch: pytest.MonkeyPatch, error: CodeReposError) -> None:
    """Let the service refuse every call with ``error``."""

    def connect_repository(**arguments: Any) -> None:
        raise error

    monkeypatch.setattr(services, "connect_repository", connect_repository)


def test_answer_has_exactly_the_documented_names_and_types(api: APIClient, connect_calls: Calls, body: Body) -> None:
    """The answer of a connect call is the documented one, sizes as numbers and times in UTC with whole seconds."""
    response = connect(api, body)

    assert response.status_code == 201
    answer = response.json()
    assert {name: answer[name] for name in answer if not name.endswith("_id")} == {
        "git_url": "https://github.com/user/repo.git",
        "connected": True,
        "estimated_size_mb": 25.6,
        "size_source": "probe",
        "clone_status": "PENDING",
        "created_at": "2024-01-15T10:30:00Z",
    }
    assert uuid.UUID(answer["repo_id"]) != uuid.UUID(answer["task_id"])
    assert set(answer) >= {"repo_id", "task_id"}


def test_service_gets_the_checked_values(api: APIClient, connect_calls: Calls, body: Body) -> None:
    """All fields reach the service under its own names, the token as a secret."""
    connect(api, body | {"ref": "main", "username": "bot", "depth": 5})

    [call] = connect_calls
    token = call.pop("access_token")
    assert isinstance(token, Secret)
    assert token.reveal() == TOKEN
    del call["user"]
    assert call == {
        "git_url": "https://github.com/user/repo.git",
        "project_id": body["project_id"],
        "ref": "main",
        "username": "bot",
        "depth": 5,
    }


def test_everything_but_url_and_project_may_be_left_out(api: APIClient, connect_calls: Calls, body: Body) -> None:
    """A public repository needs no token; ref, user name and depth have their defaults."""
    del body["access_token"]

    assert connect(api, body).status_code == 201

    [call] = connect_calls
    assert call["access_token"].reveal() == ""
    assert (call["ref"], call["username"], call["depth"]) == ("", "", None)


@pytest.mark.parametrize("empty", ["", None])
def test_token_may_be_empty(api: APIClient, connect_calls: Calls, body: Body, empty: str | None) -> None:
    """An empty token and none are the same."""
    connect(api, body | {"access_token": empty})

    assert connect_calls[0]["access_token"].reveal() == ""


@pytest.mark.parametrize("token", [" token", "token ", "to ken", "token\n", "tökén"])
def test_token_is_never_trimmed_into_another(api: APIClient, connect_calls: Calls, body: Body, token: str) -> None:
    """A token with characters that no Git host uses is refused rather than changed."""
    response = connect(api, body | {"access_token": token})

    assert response.status_code == 400
    assert list(response.json()["detail"]["fields"]) == ["access_token"]
    assert connect_calls == []


def test_longest_token_passes(api: APIClient, connect_calls: Calls, body: Body) -> None:
    """4,096 characters are allowed."""
    assert connect(api, body | {"access_token": "t" * 4096}).status_code == 201


@pytest.mark.parametrize(
    "more",
    [
        {"clone_status": "COMPLETED", "sandbox_path": "/etc", "token_kid": "mine", "token_ciphertext": "AAAA"},
        {"repo_id": str(uuid.uuid4()), "id": str(uuid.uuid4()), "user": 1, "connected": False, "url_key": "x"},
        {"project": str(uuid.uuid4()), "platform": "gitlab", "node": "other", "version": "1"},
    ],
)
def test_unknown_names_are_ignored(api: APIClient, connect_calls: Calls, body: Body, more: Body) -> None:
    """No name beside the documented ones reaches the service."""
    assert connect(api, body | more).status_code == 201

    assert set(connect_calls[0]) == {"user", "project_id", "git_url", "access_token", "ref", "username", "depth"}
    assert connect_calls[0]["project_id"] == body["project_id"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("git_url", ""),
        ("git_url", None),
        ("git_url", ["https://github.com/a/b"]),
        ("git_url", {"url": "https://github.com/a/b"}),
        ("project_id", ""),
        ("project_id", None),
        ("project_id", []),
        ("project_id", "a\0b"),
        ("ref", "a" * 256),
        ("ref", "ä" * 128),
        ("ref", "main\n"),
        ("ref", "a\x7fb"),
        ("ref", "a\x85b"),
        ("ref", "a\ud800b"),
        ("ref", "a\0b"),
        ("ref", None),
        ("username", "user:name"),
        ("username", "user\r\n"),
        ("username", "u" * 2_049),
        ("depth", 0),
        ("depth", -1),
        ("depth", 2**31),
        ("depth", 1.5),
        ("depth", True),
        ("depth", "many"),
        ("depth", "9" * 2000),
        ("depth", []),
    ],
)
def test_bad_values_are_named_by_field(
    api: APIClient, connect_calls: Calls, body: Body, field: str, value: object
) -> None:
    """A value that cannot be right is a 400 with a sentence under the name of its field, before anything happens."""
    response = connect(api, body | {field: value})

    assert response.status_code == 400
    detail = response.json()["detail"]
    assert (detail["error"], set(detail)) == ("invalid_request", {"error", "message", "fields"})
    assert list(detail["fields"]) == [field]
    assert all(isinstance(sentence, str) for sentence in detail["fields"][field])
    assert connect_calls == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ref", "a" * 255),
        ("ref", "ä" * 127),
        ("depth", 1),
        ("depth", 2**31 - 1),
        ("depth", None),
        ("username", ""),
        ("username", "u" * 2_048),
    ],
)
def test_values_at_the_bounds_pass(api: APIClient, connect_calls: Calls, body: Body, field: str, value: object) -> None:
    """What is just allowed reaches the service unchanged."""
    assert connect(api, body | {field: value}).status_code == 201

    assert connect_calls[0][field] == value


@pytest.mark.parametrize(
    "git_url", ["https://h/a\r\nb", " https://github.com/a/b ", "https://h/\0", "https://h/\ud800", "x" * 3000]
)
def test_any_text_of_a_url_is_left_to_the_parser(
    api: APIClient, body: Body, git_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No text of a URL is changed or refused before the one parser that accepts or refuses them."""
    seen = []

    def parse(**arguments: Any) -> None:
        seen.append(arguments["git_url"])
        raise InvalidGitUrl

    monkeypatch.setattr(services, "connect_repository", parse)

    assert connect(api, body | {"git_url": git_url}).json()["detail"]["error"] == "invalid_git_url"
    assert seen == [git_url]


@pytest.mark.parametrize("document", ["[]", "null", '"text"', "3", "[[]]"])
def test_body_that_is_no_object_is_refused(api: APIClient, connect_calls: Calls, document: str) -> None:
    """A JSON document that is no object is a 400 in our shape."""
    response = api.post(f"{ADDRESS}/connect", document, content_type="application/json")

    assert response.status_code == 400
    assert response.json()["detail"]["error"] == "invalid_request"
    assert list(response.json()["detail"]["fields"]) == ["non_field_errors"]


def test_too_large_is_a_413_with_its_figures(api: APIClient, body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository over the limit gets exactly the documented body."""
    refuse_with(monkeypatch, RepositoryTooLarge.of(156_800_000, 100_000_000))

    response = connect(api, body)

    assert response.status_code == 413
    assert response.json() == {
        "detail": {
            "error": "repository_too_large",
            "message": "Repository size 156.8MB exceeds limit of 100MB",
            "estimated_size_mb": 156.8,
            "limit_mb": 100,
        }
    }


def test_second_connect_names_the_first(api: APIClient, body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that is connected already is a 409 with its id."""
    repo_id = uuid.uuid4()
    refuse_with(monkeypatch, AlreadyConnected(repo_id=repo_id))

    response = connect(api, body)

    assert response.status_code == 409
    assert response.json()["detail"]["repo_id"] == str(repo_id)


def test_refusal_of_the_remote_is_not_one_of_the_caller(
    api: APIClient, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that the Git host refuses is a 422 without a challenge."""
    refuse_with(monkeypatch, RemoteAuthFailed())

    response = connect(api, body)

    assert response.status_code == 422
    assert response.json()["detail"]["error"] == "remote_auth_failed"
    assert "WWW-Authenticate" not in response


def test_each_user_has_a_rate(
    client_of: ClientOf, viewer: Any, developer: Any, connect_calls: Calls, body: Body, settings: Settings
) -> None:
    """A user over the rate that is set right now gets a 429 that says when to come back; others go on."""
    settings.CODEREPOS = settings.CODEREPOS | {"CONNECT_RATE_PER_USER": "2/hour"}
    api = client_of(developer)
    answers = [connect(api, body) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [201, 201, 429]
    detail = answers[2].json()["detail"]
    assert detail["error"] == "throttled"
    assert 0 < detail["retry_after_seconds"] <= 3600
    assert answers[2]["Retry-After"] == str(detail["retry_after_seconds"])
    assert connect(client_of(viewer), body).status_code == 201

    settings.CODEREPOS = settings.CODEREPOS | {"CONNECT_RATE_PER_USER": "3/hour"}
    assert connect(api, body).status_code == 201


def test_only_connect_calls_are_counted(api: APIClient, connect_calls: Calls, body: Body, settings: Settings) -> None:
    """Reading and asking for the options of the address cost nothing."""
    settings.CODEREPOS = settings.CODEREPOS | {"CONNECT_RATE_PER_USER": "1/hour"}

    for _ in range(3):
        assert api.get(f"{ADDRESS}/repos").status_code == 200
        assert api.options(f"{ADDRESS}/connect").status_code == 200
        assert api.get(f"{ADDRESS}/connect").status_code == 405

    assert connect(api, body).status_code == 201


@pytest.mark.django_db(transaction=True)
def test_connect_runs_outside_the_transaction_of_the_request(
    api: APIClient, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody holds a transaction open while a remote is asked, not even where the host wants one per request."""
    seen: list[bool] = []

    def look(**arguments: Any) -> None:
        seen.append(connection.in_atomic_block)
        raise AlreadyConnected

    monkeypatch.setattr(services, "connect_repository", look)
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", value=True)

    connect(api, body)

    assert seen == [False]


@pytest.mark.parametrize("encoding", ["multipart", "form"])
def test_forms_are_understood(api: APIClient, connect_calls: Calls, body: Body, encoding: str) -> None:
    """The same fields may come as a form, an empty depth being none."""
    if encoding == "form":
        text = "&".join(f"{name}={value}" for name, value in (body | {"depth": "", "ref": "main"}).items())
        response = api.post(f"{ADDRESS}/connect", text, content_type="application/x-www-form-urlencoded")
    else:
        response = api.post(f"{ADDRESS}/connect", body | {"depth": "", "ref": "main"}, format="multipart")

    assert response.status_code == 201
    [call] = connect_calls
    assert call["access_token"].reveal() == TOKEN
    assert (call["depth"], call["ref"]) == (None, "main")


def test_browser_gets_a_form_with_a_password_field(api: APIClient, db: None) -> None:
    """The browsable API offers a form in which the token is typed unseen."""
    page = api.get(f"{ADDRESS}/connect", headers={"accept": "text/html"}).content.decode()

    [field] = [tag for tag in re.findall(r"<input[^>]*>", page) if 'name="access_token"' in tag]
    assert 'type="password"' in field
    assert not re.search(r'value="[^"]', field)


def test_browser_gets_an_empty_form_after_a_success(api: APIClient, connect_calls: Calls, body: Body) -> None:
    """The page that shows the answer offers the form again, for the next repository and without a value of the last."""
    response = api.post(f"{ADDRESS}/connect", body, format="multipart", headers={"accept": "text/html"})

    assert response.status_code == 201
    fields = re.findall(r"<input[^>]*>", response.content.decode())
    [token] = [tag for tag in fields if 'name="access_token"' in tag]
    [git_url] = [tag for tag in fields if 'name="git_url"' in tag]
    assert not re.search(r'value="[^"]', token + git_url)
