"""A sealed token is bound to the host of its URL: whoever changes the URL behind the app's back gets no token."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core import serializers
from django.core.management import call_command
from pytest_django import Settings

from coderepos import services
from coderepos.crypto import envelope
from coderepos.crypto.keyring import keyring
from coderepos.crypto.message import Context
from coderepos.crypto.secret import Secret
from coderepos.exceptions import InvalidGitUrl, TokenUndecryptable, UrlNotAllowed
from coderepos.models import AuditEntry, CodeRepository, Job
from coderepos.projects.models import Project
from tests.support.database import connection

pytestmark = pytest.mark.django_db

TOKEN = "ghp_BelongsToOneOriginAlone0123456789ab"
HERE = "https://github.com/owner/repo.git"


class Listener:
    """Somebody who waits for a token: counts the connections that are made to it."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/owner/repo.git"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            peer.close()

    def close(self) -> None:
        """Stop."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def listener(settings: Settings, tmp_path: Any) -> Iterator[Listener]:
    """A host that the settings allow."""
    listener = Listener()
    authority = listener.url.split("/")[2]
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "SANDBOX_BASE_PATH": str(tmp_path / "repos"),
        "PRIVATE_GIT_HOSTS": ["127.0.0.1"],
        "INSECURE_HTTP_HOSTS": [authority],
        "SANDBOX_MIN_LEVEL": 1,
        "CLONE_MAX_RETRIES": 0,
    }
    yield listener
    listener.close()


@pytest.fixture
def row() -> CodeRepository:
    """A repository on GitHub with a token."""
    return CodeRepository.objects.create(
        project=Project.objects.create(name="Rocket"), git_url=HERE, token_ciphertext=Secret(TOKEN)
    )


def by_sql(row: CodeRepository, url: str) -> None:
    """Change the URL as a database client does."""
    with connection.cursor() as cursor:
        pk = CodeRepository._meta.pk.get_db_prep_value(row.pk, connection)
        cursor.execute("UPDATE code_repos SET git_url = %s WHERE id = %s", [url, pk])


def by_base_manager(row: CodeRepository, url: str) -> None:
    """Change the URL by the manager that Django itself uses."""
    CodeRepository._base_manager.filter(pk=row.pk).update(git_url=url)


def by_fixture(row: CodeRepository, url: str) -> None:
    """Change the URL in a dump, and load it."""
    data = json.loads(serializers.serialize("json", [row]))
    data[0]["fields"]["git_url"] = url
    for restored in serializers.deserialize("json", json.dumps(data)):
        restored.save()


WAYS = pytest.mark.parametrize("way", [by_sql, by_base_manager, by_fixture])


@WAYS
def test_a_repointed_row_sends_nothing(row: CodeRepository, listener: Listener, way: Any) -> None:
    """The clone fails with its own code, and the new host hears nothing at all."""
    way(row, listener.url)
    job = Job.objects.create(repository=row, max_attempts=1)

    assert services.worker.run_clone(job_id=job.pk) == "failed"

    row.refresh_from_db()
    assert row.error_code == "token_undecryptable"
    assert "replace the token" in row.error_message
    assert listener.connections == 0
    assert [entry.event for entry in AuditEntry.objects.newest_first()] == ["decrypt_failed"]


def test_the_listener_would_have_heard_it(row: CodeRepository, listener: Listener) -> None:
    """Negative control: a token that was given for this host is on its way there."""
    by_sql(row, listener.url)
    row.refresh_from_db()
    row.token_ciphertext = TOKEN
    row.save()

    services.worker.run_clone(job_id=Job.objects.create(repository=row, max_attempts=1).pk)

    assert listener.connections > 0


@WAYS
@pytest.mark.parametrize(
    "url",
    [
        "https://github.com:8443/owner/repo.git",
        "http://github.com/owner/repo.git",
        "http://github.com:443/owner/repo.git",
        "https://github.com.evil.example/owner/repo.git",
        "https://evil.example/github.com/owner/repo.git",
        "https://user@github.com/owner/repo.git",
        "https://github.com@evil.example/owner/repo.git",
        "https://evil.example\\@github.com/owner/repo.git",
        "//github.com/owner/repo.git",
        "",
    ],
)
def test_another_origin_opens_nothing(row: CodeRepository, way: Any, url: str) -> None:
    """Scheme, host and port are bound, and a text that is not a URL names none."""
    way(row, url)

    with pytest.raises(TokenUndecryptable):
        CodeRepository.objects.get(pk=row.pk).token_ciphertext.reveal()


@WAYS
@pytest.mark.parametrize(
    "url", ["https://GitHub.com:443/owner/repo.git", "HTTPS://github.com/owner/repo", "https://github.com/another/one"]
)
def test_another_spelling_of_the_origin_still_opens(row: CodeRepository, way: Any, url: str) -> None:
    """Case and the default port make no other place, and neither does the path."""
    way(row, url)

    assert CodeRepository.objects.get(pk=row.pk).token_ciphertext.reveal() == TOKEN


def test_settings_have_no_part_in_it(row: CodeRepository, settings: Settings) -> None:
    """A host that is not allowed any more keeps its token readable, for rotation and for its return."""
    settings.CODEREPOS = {**settings.CODEREPOS, "ALLOWED_GIT_HOSTS": ["gitlab.com"]}

    assert CodeRepository.objects.get(pk=row.pk).token_ciphertext.reveal() == TOKEN


def test_the_url_in_memory_counts(row: CodeRepository) -> None:
    """What would be asked is what the token has to be for, saved or not."""
    row.git_url = "https://evil.example/owner/repo.git"

    with pytest.raises(TokenUndecryptable):
        row.token_ciphertext.reveal()


def old_format(row: CodeRepository) -> None:
    """Seal the token of a row as releases before suite 2 did."""
    field: Any = CodeRepository._meta.get_field("token_ciphertext")
    bound = field.context_of(row)
    place = Context(table=bound.table, field=bound.field, row_id=bound.row_id, project_id=bound.project_id)
    sealed = envelope.seal(TOKEN.encode(), wrapper=keyring().require_primary(), context=place)
    CodeRepository._base_manager.filter(pk=row.pk).update(token_ciphertext=sealed)


def suite_of(row: CodeRepository) -> int:
    """Number of the suite in the database."""
    sealed: Any = CodeRepository.objects.values_list("token_ciphertext", flat=True).get(pk=row.pk)
    return int(sealed[4])


def test_rekey_binds_older_tokens(row: CodeRepository, capsys: pytest.CaptureFixture[str]) -> None:
    """A token of suite 1 opens, and is bound to the host that its row names when the command runs; once."""
    old_format(row)
    assert CodeRepository.objects.get(pk=row.pk).token_ciphertext.reveal() == TOKEN

    call_command("coderepos_rekey", "--dry-run")
    assert (suite_of(row), "1 can be moved" in capsys.readouterr().out) == (1, True)
    call_command("coderepos_rekey")
    assert (suite_of(row), "1 moved" in capsys.readouterr().out) == (2, True)
    call_command("coderepos_rekey")
    assert "0 moved" in capsys.readouterr().out

    assert CodeRepository.objects.get(pk=row.pk).token_ciphertext.reveal() == TOKEN
    by_sql(row, "https://evil.example/owner/repo.git")
    with pytest.raises(TokenUndecryptable):
        CodeRepository.objects.get(pk=row.pk).token_ciphertext.reveal()


def test_rekey_does_not_bind_a_bound_token_anew(row: CodeRepository) -> None:
    """A row that was repointed keeps its token for its own host, whatever command runs meanwhile."""
    by_sql(row, "https://evil.example/owner/repo.git")
    call_command("coderepos_rekey")
    by_sql(row, HERE)

    assert CodeRepository.objects.get(pk=row.pk).token_ciphertext.reveal() == TOKEN


@pytest.mark.parametrize("url", ["", "nonsense", "https://user:secret@github.com/owner/repo", "git@github.com:a/b"])
def test_a_row_without_a_usable_url_is_not_made(row: CodeRepository, url: str) -> None:
    """Its token would be bound to nothing."""
    new = CodeRepository(project=row.project, git_url=url, token_ciphertext=TOKEN)

    for write in (new.save, lambda: CodeRepository.objects.bulk_create([new])):
        with pytest.raises((InvalidGitUrl, UrlNotAllowed)):
            write()


def test_key_and_platform_come_from_the_url(row: CodeRepository) -> None:
    """However a row is made, it is recognised by its URL."""
    made = CodeRepository.objects.create(
        project=row.project, git_url="https://GitLab.com/A/b.git/", url_key="wrong", token_ciphertext=""
    )
    (many,) = CodeRepository.objects.bulk_create(
        [CodeRepository(project=row.project, git_url=" https://bitbucket.org/a/b\n", token_ciphertext=TOKEN)]
    )

    made.refresh_from_db()
    many.refresh_from_db()
    assert (made.url_key, made.platform) == ("https://gitlab.com/A/b", "gitlab")
    assert (many.git_url, many.token_ciphertext.reveal()) == ("https://bitbucket.org/a/b", TOKEN)
    assert (many.url_key, many.platform) == ("https://bitbucket.org/a/b", "bitbucket")
