"""Bodies are JSON whatever the host has, whatever the content type says, and whichever method is used."""

from __future__ import annotations

import bz2
import json
import resource
import time
import zlib
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.settings import api_settings

from coderepos.api import urls
from coderepos.models import CodeRepository, ProjectMembership, Role
from coderepos.projects.models import Project
from tests.api.conftest import ADDRESS, ClientOf

pytestmark = pytest.mark.of_any_database


@pytest.fixture
def maintainer(project: Project) -> User:
    """A maintainer of the project."""
    user = User.objects.create_user("maintainer")
    ProjectMembership.objects.create(project=project, user=user, role=Role.MAINTAINER)
    return user


@pytest.fixture
def stranger(db: None) -> User:
    """Somebody of no project."""
    return User.objects.create_user("stranger")


class ShoutingRenderer(BaseRenderer):
    """A host's renderer: everything in capitals, under a key of its own."""

    media_type = "application/json"
    format = "json"

    def render(self, data: Any, *args: Any, **kwargs: Any) -> bytes:
        """Return anything but what we mean."""
        return json.dumps({"DATA": data}, default=str).upper().encode()


class CamelParser(BaseParser):
    """A host's parser: it changes names."""

    media_type = "*/*"

    def parse(self, stream: Any, *args: Any, **kwargs: Any) -> Any:
        """Return a body with other names."""
        return {name.title(): value for name, value in json.loads(stream.read()).items()}


def address_of(pattern: Any, project: Project, repository: CodeRepository) -> str:
    """Return an address that a pattern of ours means."""
    path = str(pattern.pattern).replace("<str:repo_id>", str(repository.pk))
    return f"{ADDRESS}/{path.replace('<str:project_id>', str(project.pk))}"


PATTERNS = pytest.mark.parametrize("pattern", urls.urlpatterns, ids=lambda pattern: pattern.name)


@PATTERNS
@pytest.mark.parametrize("role", ["anonymous", "viewer", "developer", "maintainer", "stranger"])
@pytest.mark.parametrize("method", ["options", "head"])
def test_every_address_answers_every_method_without_a_body(
    request: pytest.FixtureRequest,
    client_of: ClientOf,
    project: Project,
    repository: CodeRepository,
    pattern: Any,
    role: str,
    method: str,
) -> None:
    """OPTIONS and HEAD never fail on our side, whoever asks, for a page of a browser too."""
    user = None if role == "anonymous" else request.getfixturevalue(role)
    caller: Any = client_of(user)
    caller.raise_request_exception = False
    for accept in ("application/json", "text/html"):
        answer = getattr(caller, method)(address_of(pattern, project, repository), headers={"accept": accept})

        expected = {
            "anonymous": {401},
            "stranger": {200, 404, 405},
        }.get(role, {200, 403, 405} if method == "head" else {200})
        if pattern.name == "health":
            expected = {200, 503} if method == "head" else {200}
        assert answer.status_code in expected, answer.content
        if method == "options" and answer.status_code == 200 and accept == "application/json":
            assert {"name", "description", "renders", "parses"} <= set(answer.json())


@PATTERNS
@pytest.mark.parametrize("method", ["options", "head", "get", "post", "put", "patch", "delete", "trace"])
@pytest.mark.parametrize("repo_id", ["660e8400-e29b-41d4-a716-446655440001", "nonsense"])
def test_no_method_fails_on_ids_that_are_unknown(
    client_of: ClientOf, maintainer: User, pattern: Any, method: str, repo_id: str
) -> None:
    """Whatever is called on whatever address is answered, and never with a 500."""
    caller: Any = client_of(maintainer)
    caller.raise_request_exception = False
    path = str(pattern.pattern).replace("<str:repo_id>", repo_id).replace("<str:project_id>", repo_id)

    answer = caller.generic(method.upper(), f"{ADDRESS}/{path}", b"", content_type="application/json")

    assert answer.status_code < 500 or pattern.name == "health", answer.content


BOMB = bz2.compress(json.dumps({"git_url": "x" * 50_000_000, "project_id": "p"}).encode())


@pytest.mark.parametrize(
    "charset", ["bz2", "zlib", "zip", "hex", "base64", "quopri", "rot13", "utf-16", "utf-7", "idna"]
)
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_codec_of_the_content_type_is_never_used(
    client_of: ClientOf, developer: User, charset: str, kind: str
) -> None:
    """Some codecs of Python inflate: the body is read as UTF-8, or not at all, in no time and no memory."""
    caller: Any = client_of(developer)
    caller.raise_request_exception = False
    body = {"bz2": BOMB, "zlib": zlib.compress(b" " * 50_000_000)}.get(charset, b"%41=%42&a=b")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()

    answer = caller.generic("POST", f"{ADDRESS}/connect", body, content_type=f"{kind}; charset={charset}; boundary=x")

    assert answer.status_code == 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("charset", ["utf-16", "utf-7", "nonsense"])
def test_query_strings_are_utf_8(client_of: ClientOf, viewer: User, charset: str) -> None:
    """The charset of a body that is not there does not decide how an address is read."""
    caller: Any = client_of(viewer)
    caller.raise_request_exception = False

    answer = caller.generic(
        "GET", f"{ADDRESS}/repos", b"", content_type=f"application/json; charset={charset}", QUERY_STRING="search=%41"
    )

    assert answer.status_code == 200, answer.content


def test_utf_8_is_read_whatever_is_said(client_of: ClientOf, developer: User, project: Project) -> None:
    """A client that names a charset of its own sends UTF-8 all the same, as RFC 8259 demands."""
    body = json.dumps({"git_url": "https://example.org/ä", "project_id": str(project.pk)}, ensure_ascii=False).encode()
    anybody: Any = client_of(developer)
    for charset in ("utf-8", "UTF8", "latin-1"):
        answer = anybody.generic(
            "POST", f"{ADDRESS}/connect", body, content_type=f"application/json; charset={charset}"
        )
        assert answer.json()["detail"]["error"] == "invalid_git_url"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{} {}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"[" * 30_000,
        b'{"depth": ' + b"9" * 60_000 + b"}",
        b"nul",
        b"\x00",
    ],
)
def test_what_is_not_json_is_refused(client_of: ClientOf, developer: User, body: bytes) -> None:
    """Each is a 400 of the caller's."""
    caller: Any = client_of(developer)
    caller.raise_request_exception = False

    answer = caller.generic("POST", f"{ADDRESS}/connect", body, content_type="application/json")

    assert (answer.status_code, answer.json()["detail"]["error"]) == (400, "invalid_request")


@pytest.fixture
def host_of_its_own_way(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """A host whose parsers, renderers and negotiation are its own."""
    values = {
        "DEFAULT_RENDERER_CLASSES": [f"{__name__}.ShoutingRenderer"],
        "DEFAULT_PARSER_CLASSES": [f"{__name__}.CamelParser"],
        "DEFAULT_METADATA_CLASS": None,
        "NON_FIELD_ERRORS_KEY": "__all__",
        "UNICODE_JSON": False,
        "COMPACT_JSON": False,
        "STRICT_JSON": False,
        "DEFAULT_CONTENT_NEGOTIATION_CLASS": f"{__name__}.ShoutingRenderer",
    }
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, **values}
    assert api_settings.NON_FIELD_ERRORS_KEY == "__all__"


@pytest.mark.usefixtures("host_of_its_own_way")
def test_the_host_changes_no_body(
    client_of: ClientOf, developer: User, project: Project, repository: CodeRepository
) -> None:
    """What goes in and comes out is the JSON that is documented."""
    caller: Any = client_of(developer)

    details = caller.get(f"{ADDRESS}/repos/{repository.pk}")
    empty = caller.generic("POST", f"{ADDRESS}/connect", b"{}", content_type="application/json")
    listed = caller.generic("POST", f"{ADDRESS}/connect", b"[]", content_type="application/json")
    wrong = caller.generic(
        "POST",
        f"{ADDRESS}/connect",
        json.dumps({"git_url": "https://", "project_id": str(project.pk)}).encode(),
        content_type="application/json",
    )
    form = caller.post(f"{ADDRESS}/connect", {"git_url": "https://"}, format="multipart")
    options = caller.options(f"{ADDRESS}/connect")

    assert details.json()["repo_id"] == str(repository.pk)
    assert details["Content-Type"] == "application/json"
    assert set(empty.json()["detail"]["fields"]) == {"git_url", "project_id"}
    assert set(listed.json()["detail"]["fields"]) == {"non_field_errors"}
    assert wrong.json()["detail"]["error"] == "invalid_git_url"
    assert form.status_code == 415
    assert options.json()["parses"] == ["application/json"]
