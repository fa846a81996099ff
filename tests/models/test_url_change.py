"""A stored URL that is changed takes its token to no other host."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError, transaction
from pytest_django import Settings

from coderepos import engine
from coderepos.crypto.keyring import keyring
from coderepos.crypto.secret import Secret
from coderepos.exceptions import InvalidGitUrl, UrlNotAllowed
from coderepos.models import AuditEntry, AuditEvent, CodeRepository
from coderepos.projects.models import Project
from tests.support.cluster import ROOT
from tests.support.database import ALIAS, connection

pytestmark = pytest.mark.django_db

TOKEN = "ghp_BelongsToOneHostAlone0123456789abcd"
NEW_TOKEN = "ghp_MadeForTheOtherHost0123456789abcdef"
ELSEWHERE = "https://gitlab.com/owner/repo.git"


@pytest.fixture
def row() -> CodeRepository:
    """A repository on GitHub with a token that works."""
    return CodeRepository.objects.create(
        project=Project.objects.create(name="Rocket"),
        git_url="https://github.com/owner/repo.git",
        url_key="https://github.com/owner/repo",
        platform="github",
        username="bot",
        token_ciphertext=Secret(TOKEN),
        token_accepted=True,
    )


def stored(row: CodeRepository) -> tuple[str, str, str, str]:
    """Return URL, key, platform and opened token as another process reads them."""
    fresh = CodeRepository.objects.get(pk=row.pk)
    return fresh.git_url, fresh.url_key, fresh.platform, fresh.token_ciphertext.reveal()


@pytest.mark.parametrize(
    "url",
    [
        ELSEWHERE,
        "https://github.com.evil.example/owner/repo.git",
        "https://github.com:8443/owner/repo.git",
        "http://github.com:80/owner/repo.git",
    ],
)
@pytest.mark.parametrize("update_fields", [None, ["git_url"]])
def test_another_origin_drops_the_token(
    row: CodeRepository, settings: Settings, url: str, update_fields: list[str] | None
) -> None:
    """Another host, port or scheme leaves a sealed empty token, no user name, and nothing to authenticate with."""
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "PRIVATE_GIT_HOSTS": ["github.com:8443"],
        "INSECURE_HTTP_HOSTS": ["github.com:80"],
    }
    row.git_url = url
    row.save(update_fields=update_fields)

    fresh = CodeRepository.objects.with_token_status().get(pk=row.pk)
    assert (fresh.git_url, fresh.token_ciphertext.reveal(), fresh.username) == (url, "", "")
    assert (fresh.token_accepted, fresh.token_expires_at, fresh.token_status) == (None, None, "none")
    assert engine.clone_request(fresh, fresh.token_ciphertext.secret()).credentials is None
    assert row.token_ciphertext.reveal() == ""
    entry = AuditEntry.objects.get()
    assert (entry.event, entry.repository_id) == (AuditEvent.TOKEN_DROPPED, row.pk)


def test_key_and_platform_follow(row: CodeRepository) -> None:
    """The normal form and the platform are those of the new URL."""
    row.git_url = ELSEWHERE
    row.save()

    assert stored(row) == (ELSEWHERE, "https://gitlab.com/owner/repo", "gitlab", "")


@pytest.mark.parametrize("update_fields", [None, ["git_url", "token_ciphertext"], ["git_url", "token_kid"]])
def test_token_that_comes_with_the_url_stays(row: CodeRepository, update_fields: list[str] | None) -> None:
    """Who gives a token in the same save means it for the new host."""
    row.git_url, row.token_ciphertext = ELSEWHERE, NEW_TOKEN
    row.save(update_fields=update_fields)

    expected = NEW_TOKEN if update_fields is None or "token_ciphertext" in update_fields else ""
    assert stored(row)[3] == expected


def test_token_that_is_not_saved_does_not_count(row: CodeRepository) -> None:
    """A token that was assigned but is not among the saved fields keeps nothing alive."""
    row.git_url, row.token_ciphertext = ELSEWHERE, NEW_TOKEN
    row.save(update_fields=["git_url"])

    assert stored(row)[3] == ""


def test_old_token_assigned_again_is_no_new_one(row: CodeRepository) -> None:
    """The sealed token of the row itself was not made for another host."""
    row.git_url, row.token_ciphertext = ELSEWHERE, row.token_ciphertext
    row.save()

    assert stored(row)[3] == ""


@pytest.mark.parametrize("url", ["https://github.com/owner/other.git", "https://GitHub.com:443/owner/Repo/"])
def test_same_origin_keeps_the_token(row: CodeRepository, url: str) -> None:
    """Another path, or another spelling of the same host, is the same place."""
    row.git_url = url
    row.save()

    assert stored(row)[3] == TOKEN
    assert stored(row)[1] == url.lower().removesuffix("/").removesuffix(".git").replace(":443", "").replace(
        "owner/repo", "owner/Repo" if "Repo" in url else "owner/repo"
    )
    assert not AuditEntry.objects.exists()


def test_stored_url_that_the_settings_no_longer_allow(row: CodeRepository, settings: Settings) -> None:
    """Where nobody can say what the old URL meant, the new one is another place."""
    row.git_url = ELSEWHERE
    settings.CODEREPOS = {**settings.CODEREPOS, "ALLOWED_GIT_HOSTS": ["gitlab.com"]}
    row.save()

    assert stored(row)[3] == ""


def test_row_that_was_loaded_without_url_and_token(row: CodeRepository) -> None:
    """What the instance never read is compared all the same."""
    deferred = CodeRepository.objects.only("id", "project").get(pk=row.pk)
    deferred.git_url = ELSEWHERE
    deferred.save()

    assert stored(row) == (ELSEWHERE, "https://gitlab.com/owner/repo", "gitlab", "")


def test_stale_instance_does_not_bring_a_token_to_the_old_host(row: CodeRepository) -> None:
    """An instance that still has the old URL takes the token of the new one nowhere when it is saved."""
    stale = CodeRepository.objects.get(pk=row.pk)
    row.git_url, row.token_ciphertext = ELSEWHERE, NEW_TOKEN
    row.save()
    stale.save()

    assert stored(row)[0] == "https://github.com/owner/repo.git"
    assert stored(row)[3] == ""


def test_instance_made_by_hand(row: CodeRepository) -> None:
    """An instance with the key of a stored row, written over it, drops the token too."""
    forged = CodeRepository(pk=row.pk, project_id=row.project_id, git_url=ELSEWHERE)
    forged.save(force_update=True, update_fields=["git_url"])

    assert stored(row)[3] == ""


@pytest.mark.parametrize(("url", "error"), [("nonsense", InvalidGitUrl), ("ssh://git@github.com/a/b", UrlNotAllowed)])
def test_unusable_url_is_refused(row: CodeRepository, url: str, error: type[Exception]) -> None:
    """A URL that could not have been connected is not stored later either."""
    row.git_url = url
    with pytest.raises(error):
        row.save()

    assert stored(row)[0] == "https://github.com/owner/repo.git"


def test_no_way_around_save(row: CodeRepository) -> None:
    """Updates of many rows at once refuse the URL."""
    row.git_url = ELSEWHERE
    rows = CodeRepository.objects
    ways: list[Callable[[], object]] = [
        lambda: rows.update(git_url=ELSEWHERE),
        lambda: rows.filter(pk=row.pk).update(git_url=ELSEWHERE, platform="gitlab"),
        lambda: rows.bulk_update([row], ["git_url"]),
        lambda: rows.bulk_create([row], update_conflicts=True, unique_fields=["id"], update_fields=["git_url"]),
    ]
    for way in ways:
        with pytest.raises(ValueError, match=r"save\(\) only"), transaction.atomic(using=ALIAS):
            way()

    assert stored(row) == (
        "https://github.com/owner/repo.git",
        "https://github.com/owner/repo",
        "github",
        TOKEN,
    )


def test_update_or_create(row: CodeRepository) -> None:
    """The shortcut of the shell goes through save."""
    CodeRepository.objects.update_or_create(pk=row.pk, defaults={"git_url": ELSEWHERE})

    assert stored(row)[3] == ""


def test_save_of_anything_else_asks_nothing_more(row: CodeRepository, django_assert_num_queries: Any) -> None:
    """A save that names other fields does not look at the URL."""
    row.depth = 3
    with django_assert_num_queries(3):  # savepoint, update, release
        row.save(update_fields=["depth"])


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "change",
    [
        {"token_ciphertext": Secret(NEW_TOKEN)},
        {"git_url": ELSEWHERE},
        {"git_url": ELSEWHERE, "token_ciphertext": Secret(NEW_TOKEN)},
        {"git_url": "https://github.com/owner/other.git", "token_ciphertext": Secret(NEW_TOKEN)},
    ],
    ids=["token", "url", "both", "path and token"],
)
@pytest.mark.parametrize("project", ["same project", "other project"])
@pytest.mark.parametrize("names", ["all", "named"])
def test_key_service_is_asked_outside_of_a_transaction(
    row: CodeRepository, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], project: str, names: str
) -> None:
    """A key service that hangs must not hold locks that others wait for."""
    if project == "other project":
        change = {**change, "project": Project.objects.create(name="Comet")}
    loaded = CodeRepository.objects.get(pk=row.pk)
    for name, value in change.items():
        setattr(loaded, name, value)
    asked = []

    def watch(function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            asked.append(connection.in_atomic_block)
            return function(*arguments)

        return watched

    ring = type(keyring())
    monkeypatch.setattr(ring, "seal", watch(ring.seal))
    monkeypatch.setattr(ring, "open", watch(ring.open))

    loaded.save(update_fields=None if names == "all" else [*change])

    assert asked
    assert not any(asked)


@pytest.mark.django_db(transaction=True)
def test_url_that_changes_before_the_lock_is_judged_again(row: CodeRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first look at the stored URL and the lock another save may point the row to another host."""
    mine = CodeRepository.objects.get(pk=row.pk)
    mine.git_url = "https://github.com/owner/other.git"
    seal_before_save = CodeRepository.seal_before_save

    def overtaken(self: CodeRepository, *arguments: Any, **options: Any) -> None:
        if self is mine:
            monkeypatch.undo()
            other = CodeRepository.objects.get(pk=row.pk)
            other.git_url, other.token_ciphertext = ELSEWHERE, NEW_TOKEN
            other.save()
        seal_before_save(self, *arguments, **options)

    monkeypatch.setattr(CodeRepository, "seal_before_save", overtaken)

    mine.save()

    assert stored(row)[0] == "https://github.com/owner/other.git"
    assert stored(row)[3] == ""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("names", [None, ["git_url", "token_ciphertext"]])
@pytest.mark.parametrize("token", [NEW_TOKEN, None])
def test_save_that_failed_may_be_repeated(
    row: CodeRepository, monkeypatch: pytest.MonkeyPatch, token: str | None, names: list[str] | None
) -> None:
    """It keeps the new token, which is sealed by then, and drops the old one with an entry in the trail."""
    CodeRepository.objects.filter(pk=row.pk).update(has_token=token is None)
    loaded = CodeRepository.objects.get(pk=row.pk)
    loaded.git_url = ELSEWHERE
    if token:
        loaded.token_ciphertext = token

    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(CodeRepository, "save_base", fail)
        with pytest.raises(OperationalError):
            loaded.save(update_fields=names)
    loaded.save(update_fields=names)

    fresh = CodeRepository.objects.get(pk=row.pk)
    assert (fresh.git_url, fresh.token_ciphertext.reveal(), fresh.has_token) == (ELSEWHERE, token or "", bool(token))
    assert [entry.event for entry in AuditEntry.objects.all()] == ([] if token else [AuditEvent.TOKEN_DROPPED])


@pytest.mark.parametrize("names", [None, ["project"]])
def test_move_takes_the_token_of_today_along(row: CodeRepository, names: list[str] | None) -> None:
    """One that was replaced since the row was loaded does not come back."""
    loaded = CodeRepository.objects.get(pk=row.pk)
    other = CodeRepository.objects.get(pk=row.pk)
    other.token_ciphertext = NEW_TOKEN
    other.save()

    loaded.project = Project.objects.create(name="Comet")
    loaded.save(update_fields=names)

    assert CodeRepository.objects.get(pk=row.pk).token_ciphertext.reveal() == NEW_TOKEN


def test_stale_save_says_nothing_of_the_token(row: CodeRepository) -> None:
    """Whether there is one is written with the token, and not without it."""
    loaded = CodeRepository.objects.get(pk=row.pk)
    other = CodeRepository.objects.get(pk=row.pk)
    other.token_ciphertext = ""
    other.save()

    loaded.depth = 5
    loaded.save()

    fresh = CodeRepository.objects.get(pk=row.pk)
    assert (fresh.depth, fresh.has_token, fresh.token_ciphertext.reveal()) == (5, False, "")


@pytest.mark.django_db(transaction=True)
def test_admin_shell(row: CodeRepository, child_environment: dict[str, str]) -> None:
    """``manage.py shell`` does not get around it either."""
    code = (
        "from coderepos.models import CodeRepository as R\n"
        f"r = R.objects.get()\nr.git_url = {ELSEWHERE!r}\nr.save()\nprint('token', repr(r.token_ciphertext.reveal()))"
    )
    done = subprocess.run(
        [sys.executable, Path(ROOT, "manage.py"), "shell", "-c", code],
        env=child_environment,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )

    assert "token ''" in done.stdout, done.stderr
    assert stored(row)[3] == ""


@pytest.mark.django_db(transaction=True)
def test_two_saves_at_once(row: CodeRepository) -> None:
    """Of two that point the row to different hosts, the later one drops the token of the earlier one."""
    other = "https://bitbucket.org/owner/repo.git"
    start = threading.Barrier(2)

    def point_to(url: str, token: str | None) -> None:
        try:
            mine = CodeRepository.objects.get(pk=row.pk)
            mine.git_url = url
            if token:
                mine.token_ciphertext = token
            start.wait()
            mine.save()
        finally:
            connection.close()

    threads = [threading.Thread(target=point_to, args=pair) for pair in ((ELSEWHERE, NEW_TOKEN), (other, None))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (stored(row)[0], stored(row)[3]) in {(ELSEWHERE, NEW_TOKEN), (other, "")}


def test_fixtures_keep_their_pair(row: CodeRepository, tmp_path: Path) -> None:
    """A dump that is loaded back has URL and token as they were."""
    call_command(
        "dumpdata", "coderepos.coderepository", output=str(tmp_path / "dump.json"), verbosity=0, database=ALIAS
    )
    call_command("loaddata", str(tmp_path / "dump.json"), verbosity=0, database=ALIAS)

    assert stored(row)[3] == TOKEN
