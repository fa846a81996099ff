"""The field: sealed on every way into the database, opened for its own row alone, shown nowhere."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import threading
import uuid
from typing import Any, cast

import pytest
from asgiref.sync import sync_to_async
from django.apps import apps
from django.core import serializers
from django.core.exceptions import FieldError, ValidationError
from django.core.management import call_command
from django.core.serializers.base import DeserializationError
from django.db import DatabaseError, connections, models, transaction
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.questioner import NonInteractiveMigrationQuestioner
from django.db.migrations.state import ProjectState
from django.db.migrations.writer import MigrationWriter
from django.db.models import F, Value
from django.db.models.functions import Concat
from django.test.utils import CaptureQueriesContext, isolate_apps

from coderepos.crypto.fields import EncryptedTokenField, SealedToken, StoredToken
from coderepos.crypto.rows import SealedTokenModel
from coderepos.crypto.secret import Secret
from coderepos.exceptions import TokenUndecryptable
from coderepos.models import CodeRepository, Job
from coderepos.projects.models import Project
from tests.crypto.conftest import TOKEN, MakeRow
from tests.support.database import ALIAS, connection

OTHER = "glpat-AnotherTokenOfTheCryptoTests01234"


def stored(row: CodeRepository) -> tuple[bytes, str]:
    """What the database holds for a row."""
    with connection.cursor() as cursor:
        pk = CodeRepository._meta.pk.get_db_prep_value(row.pk, connection)
        cursor.execute("SELECT token_ciphertext, token_kid FROM code_repos WHERE id = %s", [pk])
        sealed, kid = cursor.fetchone()
    return bytes(sealed), kid


def overwrite(row: CodeRepository, sealed: bytes) -> None:
    """Put bytes into the database behind the field's back."""
    with connection.cursor() as cursor:
        pk = CodeRepository._meta.pk.get_db_prep_value(row.pk, connection)
        cursor.execute("UPDATE code_repos SET token_ciphertext = %s WHERE id = %s", [sealed, pk])


def reloaded(row: CodeRepository) -> str:
    """The token as another process would open it."""
    token: str = CodeRepository.objects.get(pk=row.pk).token_ciphertext.reveal()
    return token


# Into the database and back ---------------------------------------------------------------------------------------


def test_a_saved_token_opens_again(row: CodeRepository) -> None:
    """It is sealed in the database under the name of its key, and opens from there."""
    sealed, kid = stored(row)

    assert sealed.startswith(b"CRE1")
    assert TOKEN.encode() not in sealed
    assert kid.startswith("local:")
    assert row.token_ciphertext.reveal() == TOKEN
    assert row.token_ciphertext.secret() == Secret(TOKEN)


def test_a_token_reads_before_it_is_saved(new_row: MakeRow) -> None:
    """What was assigned opens at once, a text as well as a secret."""
    assert new_row().token_ciphertext.reveal() == TOKEN
    assert new_row(token_ciphertext=OTHER).token_ciphertext.reveal() == OTHER


def test_a_row_without_a_token_has_a_sealed_empty_one(new_row: MakeRow) -> None:
    """Public repositories cannot be told apart by the length of the column."""
    public, private = new_row(token_ciphertext=""), new_row()
    public.save()
    private.save()

    assert reloaded(public) == ""
    assert len(stored(public)[0]) == len(stored(private)[0])


@pytest.mark.parametrize("form", [str, lambda pk: str(pk).upper(), lambda pk: pk.hex, lambda pk: f"{{{pk}}}"])
def test_a_key_that_is_still_text_gives_the_same_row(project: Project, form: Any) -> None:
    """The token is bound to the id that the row has once it is loaded, however its id was written at first."""
    pk = uuid.uuid4()
    CodeRepository(
        id=form(pk),
        project_id=form(project.pk),
        git_url="https://git.example.org/r.git",
        token_ciphertext=Secret(TOKEN),
    ).save()

    assert CodeRepository.objects.get(pk=pk).token_ciphertext.reveal() == TOKEN


def test_bulk_create_seals_each_row(new_row: MakeRow) -> None:
    """Many rows at once are sealed as one is."""
    rows = CodeRepository.objects.bulk_create([new_row(), new_row(token_ciphertext=OTHER)])

    assert [reloaded(row) for row in rows] == [TOKEN, OTHER]
    assert all(stored(row)[1] for row in rows)


def test_bulk_create_never_moves_a_token_to_another_row(new_row: MakeRow) -> None:
    """On a conflict the existing row would get a token that is sealed for the new one."""
    for names in (["token_ciphertext"], ["token_kid"], ["token_ciphertext", "token_kid"]):
        with pytest.raises(ValueError, match="conflict"):
            CodeRepository.objects.bulk_create(
                [new_row()], update_conflicts=True, update_fields=names, unique_fields=["id"]
            )


def test_bulk_update_seals_each_row(new_row: MakeRow) -> None:
    """Both halves of the pair are named, and each token is sealed for its own row."""
    rows = CodeRepository.objects.bulk_create([new_row(), new_row()])
    for number, row in enumerate(rows):
        row.token_ciphertext = f"{OTHER}{number}"

    CodeRepository.objects.bulk_update(rows, ["token_ciphertext", "token_kid"])

    assert [reloaded(row) for row in rows] == [f"{OTHER}0", f"{OTHER}1"]


@pytest.mark.parametrize("names", [["token_ciphertext"], ["token_kid"], ["git_url", "token_kid"]])
def test_bulk_update_of_one_half_is_refused(row: CodeRepository, names: list[str]) -> None:
    """A token under the name of another key would never open again."""
    with pytest.raises(ValueError, match="together"):
        CodeRepository.objects.bulk_update([row], names)


def test_bulk_update_of_other_fields_keeps_a_new_token_for_later(row: CodeRepository) -> None:
    """A token that was assigned and not written yet is written by the next save."""
    row.token_ciphertext = OTHER
    row.ref = "main"

    CodeRepository.objects.bulk_update([row], ["ref"])
    assert reloaded(row) == TOKEN
    row.save()

    assert reloaded(row) == OTHER


@pytest.mark.parametrize(
    "values",
    [{"token_ciphertext": b"CRE1"}, {"token_kid": "local:0"}, {"token_kid": "local:0", "ref": "main"}],
)
def test_an_update_of_one_half_is_refused(row: CodeRepository, values: dict[str, Any]) -> None:
    """A queryset's update names both or none."""
    with pytest.raises(ValueError, match="together"):
        CodeRepository.objects.filter(pk=row.pk).update(**values)


@pytest.mark.parametrize("value", [TOKEN, Secret(TOKEN)])
def test_an_update_cannot_seal(row: CodeRepository, value: object) -> None:
    """It has no row to seal for, so readable text is refused."""
    with pytest.raises(TypeError):
        CodeRepository.objects.filter(pk=row.pk).update(token_ciphertext=value, token_kid="x")


@pytest.mark.parametrize("value", [Value(TOKEN), Value(TOKEN.encode()), F("git_url"), Concat(Value("a"), Value("b"))])
def test_an_expression_is_no_token(row: CodeRepository, value: Any) -> None:
    """The database would store what the expression gives, unsealed."""
    with pytest.raises(ValueError, match="expression"):
        CodeRepository.objects.update(token_ciphertext=value, token_kid="x")
    with pytest.raises(TypeError):
        row.token_ciphertext = value


@pytest.mark.parametrize("value", [TOKEN.encode(), b"", b"CRE1" + bytes(100), b"x" * 500, memoryview(b"readable")])
def test_bytes_that_are_no_message_are_never_stored(row: CodeRepository, new_row: MakeRow, value: Any) -> None:
    """Every way into the database refuses bytes that are not sealed."""
    row.token_ciphertext = value
    fresh = new_row(token_ciphertext=value)
    before = stored(row)

    for write in (
        row.save,
        fresh.save,
        lambda: CodeRepository.objects.bulk_create([fresh]),
        lambda: CodeRepository.objects.bulk_update([row], ["token_ciphertext", "token_kid"]),
        lambda: CodeRepository.objects.update(token_ciphertext=bytes(value), token_kid="x"),
        lambda: row.save_base(raw=True),
    ):
        with pytest.raises(TokenUndecryptable), transaction.atomic(using=ALIAS):
            write()
    assert stored(row) == before
    assert CodeRepository.objects.count() == 1


def test_a_raw_save_does_not_store_what_waits_to_be_sealed(new_row: MakeRow) -> None:
    """A raw save, as loaddata does it, seals nothing, and so refuses."""
    with pytest.raises(TypeError), transaction.atomic(using=ALIAS):
        new_row().save_base(raw=True, force_insert=True)


@pytest.mark.parametrize("value", [7, 1.5, ["ghp"], {"a": 1}, object(), True])
def test_only_text_becomes_a_token(new_row: MakeRow, value: object) -> None:
    """Anything else is a mistake of the caller."""
    with pytest.raises(TypeError):
        new_row(token_ciphertext=value)


@pytest.mark.parametrize("text", ["a b", "line\n", "tab\t", "\x00", "é", "x" * 4097, " leading", "\ud800"])
def test_no_token_is_trimmed_or_guessed_at(new_row: MakeRow, text: str) -> None:
    """What no host uses as a token is refused as it is, without showing it."""
    with pytest.raises(ValidationError) as caught:
        new_row(token_ciphertext=text)

    assert text not in str(caught.value)


def test_the_longest_token_fits(new_row: MakeRow) -> None:
    """4096 characters are kept."""
    row = new_row(token_ciphertext="x" * 4096)
    row.save()

    assert reloaded(row) == "x" * 4096


@pytest.mark.parametrize("name", ["token_ciphertext", "token_kid"])
def test_update_fields_saves_both_halves(row: CodeRepository, name: str) -> None:
    """Naming one half saves the other with it."""
    before = stored(row)
    row.token_ciphertext = OTHER

    row.save(update_fields=[name])

    assert stored(row) != before
    assert reloaded(row) == OTHER


def test_update_fields_of_others_leaves_a_new_token_unsaved(row: CodeRepository) -> None:
    """It is still there for the next save."""
    row.token_ciphertext = OTHER
    row.save(update_fields=["ref"])
    assert reloaded(row) == TOKEN

    row.save()

    assert reloaded(row) == OTHER


def test_a_stale_row_does_not_bring_the_old_token_back(row: CodeRepository) -> None:
    """Only a token that was assigned anew is written: rotation and reconnection win over older copies of the row."""
    stale, validated, deferred = (
        CodeRepository.objects.get(pk=row.pk),
        CodeRepository.objects.get(pk=row.pk),
        CodeRepository.objects.without_token().get(pk=row.pk),
    )
    row.token_ciphertext = OTHER
    row.save()
    after = stored(row)

    stale.ref = "stale"
    stale.save()
    assert CodeRepository.objects.get(pk=row.pk).ref == "stale"
    validated.full_clean()
    validated.save()
    deferred.save()

    assert stored(row) == after
    assert reloaded(row) == OTHER


def test_a_save_after_a_save_writes_the_token_once(new_row: MakeRow) -> None:
    """A row that was just made counts as one that was loaded."""
    row = new_row()
    row.save()

    with CaptureQueriesContext(connection) as queries:
        row.save()

    assert not [query["sql"] for query in queries if "token_ciphertext" in query["sql"]]


def test_saving_a_row_that_has_gone_is_an_error(row: CodeRepository) -> None:
    """A deleted connection does not come back by a late save."""
    CodeRepository.objects.filter(pk=row.pk).delete()

    with pytest.raises(DatabaseError):
        row.save()


def test_a_token_that_was_deferred_loads_with_its_key_name(row: CodeRepository) -> None:
    """One query brings both halves, so that a rotation between two queries cannot separate them."""
    for rows in (CodeRepository.objects.without_token(), CodeRepository.objects.only("ref")):
        deferred = rows.get(pk=row.pk)
        fresh = CodeRepository.objects.get(pk=row.pk)
        fresh.token_ciphertext = OTHER
        fresh.save()
        with CaptureQueriesContext(connection) as queries:
            token = deferred.token_ciphertext
        assert len(queries) == 1
        assert (token.sealed, token.kid) == stored(row)
        assert token.reveal() == OTHER


def test_only_the_token_is_enough_to_open_it(row: CodeRepository) -> None:
    """Key name and project are loaded when they are needed."""
    assert CodeRepository.objects.only("token_ciphertext").get(pk=row.pk).token_ciphertext.reveal() == TOKEN


def test_a_token_assigned_to_a_deferred_row_is_saved_with_its_key_name(row: CodeRepository) -> None:
    """Both halves are written although the row was loaded without them."""
    deferred = CodeRepository.objects.only("ref").get(pk=row.pk)
    deferred.token_ciphertext = OTHER
    with connection.cursor() as cursor:
        cursor.execute("UPDATE code_repos SET token_kid = 'local:another'")

    deferred.save()

    assert stored(row)[1].startswith("local:")
    assert reloaded(row) == OTHER


def test_refreshing_loads_the_token_of_now(row: CodeRepository) -> None:
    """A refresh forgets what was assigned, of both halves even where one is named."""
    for names in (None, ["token_kid"], ["token_ciphertext"]):
        row.token_ciphertext = OTHER
        row.refresh_from_db(fields=names)
        assert row.token_ciphertext.reveal() == TOKEN
    row.token_ciphertext = OTHER
    row.refresh_from_db(fields=["ref"])
    assert row.token_ciphertext.reveal() == OTHER
    row.save()
    assert reloaded(row) == OTHER


def test_a_token_comes_with_a_join(row: CodeRepository) -> None:
    """select_related loads it as any column."""
    Job.objects.create(repository=row)

    job = Job.objects.select_related("repository").get()
    with CaptureQueriesContext(connection) as queries:
        assert job.repository.token_ciphertext.reveal() == TOKEN
    assert not queries
    job.repository.save()
    assert reloaded(row) == TOKEN


def test_get_or_create_and_update_or_create_seal(project: Project) -> None:
    """The shortcuts of managers go through save."""
    key = "https://git.example.org/owner/repo"
    first, made = CodeRepository.objects.get_or_create(
        project=project, url_key=key, ref="", defaults={"git_url": key, "token_ciphertext": TOKEN}
    )
    again, made_again = CodeRepository.objects.update_or_create(
        project=project, url_key=key, ref="", defaults={"token_ciphertext": OTHER}
    )

    assert (made, made_again, first.pk) == (True, False, again.pk)
    assert reloaded(first) == OTHER


@pytest.mark.django_db(transaction=True)
def test_async_methods_seal_and_open(new_row: MakeRow) -> None:
    """The ORM's async methods are the same ones in a thread."""

    async def way() -> str:
        row = new_row()
        await row.asave()
        loaded = await CodeRepository.objects.aget(pk=row.pk)
        await loaded.arefresh_from_db()
        token: str = loaded.token_ciphertext.reveal()
        await sync_to_async(connections.close_all)()  # that of the loop's thread
        return token

    assert asyncio.run(way()) == TOKEN


# Bound to its row -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pk and adding", "pk", "none"])
def test_a_copy_of_a_row_is_sealed_anew(row: CodeRepository, how: str) -> None:
    """Every idiom of copying a row gives the copy a token of its own that opens."""
    original = row.pk
    row.pk, row.git_url = (None if how == "none" else uuid.uuid4()), "https://git.example.org/another/copy.git"
    if how == "none":
        row.id = uuid.uuid4()
    row._state.adding = how != "pk"
    row.save()

    assert CodeRepository.objects.count() == 2
    assert reloaded(row) == TOKEN
    before, after = (stored(CodeRepository(pk=pk)) for pk in (original, row.pk))
    assert before[0] != after[0]
    assert CodeRepository.objects.get(pk=original).token_ciphertext.reveal() == TOKEN


@pytest.mark.parametrize("how", ["save", "bulk_create", "save_base"])
def test_a_copy_for_another_host_is_refused(row: CodeRepository, how: str) -> None:
    """A copy takes the token to no other host."""
    row.pk, row.git_url, row.token_kid = uuid.uuid4(), "https://evil.example.org/a/b.git", row.token_kid
    row._state.adding = True
    write: Any = {
        "save": row.save,
        "bulk_create": lambda: CodeRepository.objects.bulk_create([row]),
        "save_base": lambda: row.save_base(force_insert=True),
    }[how]

    with pytest.raises(ValueError, match="another host"), transaction.atomic(using=ALIAS):
        write()
    assert CodeRepository.objects.count() == 1


@pytest.mark.parametrize("load", ["whole", "without token", "named field"])
def test_a_token_follows_its_row_to_another_project(row: CodeRepository, load: str) -> None:
    """It is sealed anew where the key is at hand, however the row was loaded and saved."""
    rows = CodeRepository.objects.without_token() if load == "without token" else CodeRepository.objects
    loaded = rows.get(pk=row.pk)
    loaded.project = Project.objects.create(name="Another")
    loaded.save(update_fields=["project"] if load == "named field" else None)

    assert reloaded(row) == TOKEN
    loaded.ref = "again"
    loaded.save()
    assert reloaded(row) == TOKEN


def test_a_stored_token_given_to_another_row_is_sealed_anew(row: CodeRepository, new_row: MakeRow) -> None:
    """Assigning one row's token to another works as it reads, with one save or with many rows at once."""
    single, first, second = (new_row(token_ciphertext=row.token_ciphertext) for _ in range(3))
    single.save()
    CodeRepository.objects.bulk_create([first, second])
    first.token_ciphertext = OTHER
    first.save()
    first.token_ciphertext = row.token_ciphertext
    CodeRepository.objects.bulk_update([first], ["token_ciphertext", "token_kid"])

    assert [reloaded(one) for one in (single, first, second)] == [TOKEN] * 3
    assert len({stored(one)[0] for one in (row, single, first, second)}) == 4


def test_a_token_of_another_host_is_refused(row: CodeRepository, new_row: MakeRow) -> None:
    """Sealed for one host, it goes to no other; its text can be assigned by who means that."""
    other = new_row(git_url="https://evil.example.org/a/b.git", token_ciphertext=row.token_ciphertext)

    with pytest.raises(ValueError, match="another host"):
        other.save()
    other.token_ciphertext = row.token_ciphertext.secret()
    other.save()
    assert reloaded(other) == TOKEN


@pytest.mark.parametrize(
    "how", ["save", "named field", "bulk_create", "bulk_update", "update", "update of sealed", "kid"]
)
def test_bytes_of_another_row_are_refused(row: CodeRepository, new_row: MakeRow, how: str) -> None:
    """Sealed bytes get into no row that they do not open in."""
    other = new_row(token_ciphertext=OTHER)
    other.save()
    before = stored(other)
    values: dict[str, Any] = {"token_ciphertext": row.token_ciphertext.sealed, "token_kid": row.token_kid}
    fresh = new_row(**values)
    if how == "kid":
        other.token_kid = "local:" + "0" * 32
    else:
        other.token_ciphertext, other.token_kid = values["token_ciphertext"], values["token_kid"]
    rows = CodeRepository.objects.filter(pk=other.pk)
    write: Any = {
        "save": other.save,
        "named field": lambda: other.save(update_fields=["token_ciphertext"]),
        "bulk_create": lambda: CodeRepository.objects.bulk_create([fresh]),
        "bulk_update": lambda: CodeRepository.objects.bulk_update([other], ["token_ciphertext", "token_kid"]),
        "update": lambda: rows.update(**values),
        "update of sealed": lambda: rows.update(**{**values, "token_ciphertext": row.token_ciphertext}),
        "kid": lambda: other.save(update_fields=["token_kid"]),
    }[how]

    with pytest.raises(ValueError, match=r"does not open|another"), transaction.atomic(using=ALIAS):
        write()
    assert stored(other) == before


def test_bytes_of_the_row_itself_are_taken(row: CodeRepository) -> None:
    """A backup of the row's own sealed bytes can be put back in every way."""
    sealed, kid = stored(row)
    for write in (
        lambda: row.save(),
        lambda: row.save(update_fields=["token_ciphertext"]),
        lambda: CodeRepository.objects.bulk_update([row], ["token_ciphertext", "token_kid"]),
    ):
        CodeRepository.objects.get(pk=row.pk).save()
        row.token_ciphertext, row.token_kid = OTHER, ""
        row.save()
        row.token_ciphertext, row.token_kid = sealed, kid
        write()
        assert (stored(row), reloaded(row)) == ((sealed, kid), TOKEN)
    assert CodeRepository.objects.filter(pk=row.pk).update(token_ciphertext=sealed, token_kid=kid) == 1
    assert CodeRepository.objects.filter(pk=uuid.uuid4()).update(token_ciphertext=sealed, token_kid=kid) == 0


def test_one_token_is_not_written_into_many_rows(row: CodeRepository, new_row: MakeRow) -> None:
    """An update of all rows would leave one that opens."""
    new_row().save()

    with pytest.raises(ValueError, match="one row"):
        CodeRepository.objects.update(token_ciphertext=row.token_ciphertext, token_kid=row.token_kid)


@pytest.mark.parametrize("how", ["update", "update of the id", "bulk_update"])
def test_a_row_does_not_leave_its_token_behind_unseen(row: CodeRepository, how: str) -> None:
    """A queryset would give rows to another project without sealing their tokens for it."""
    row.project = Project.objects.create(name="Another")

    write: Any = {
        "update": lambda: CodeRepository.objects.update(project=row.project),
        "update of the id": lambda: CodeRepository.objects.update(project_id=row.project_id),
        "bulk_update": lambda: CodeRepository.objects.bulk_update([row], ["project"]),
    }[how]

    with pytest.raises(ValueError, match=r"by save\(\)"), transaction.atomic(using=ALIAS):
        write()
    assert reloaded(row) == TOKEN


@pytest.mark.parametrize("how", ["save", "bulk_update"])
@pytest.mark.parametrize("name", ["project", "git_url"])
def test_a_token_for_values_that_are_not_saved_is_refused(row: CodeRepository, how: str, name: str) -> None:
    """It would be sealed for a project or a host that the stored row does not have."""
    row.token_ciphertext = OTHER
    setattr(row, name, {"project": Project.objects.create(name="Another"), "git_url": "https://other.example/r"}[name])

    write: Any = {
        "save": lambda: row.save(update_fields=["token_ciphertext"]),
        "bulk_update": lambda: CodeRepository.objects.bulk_update([row], ["token_ciphertext", "token_kid"]),
    }[how]

    with pytest.raises(ValueError, match=f"Save .*{name}.* together"), transaction.atomic(using=ALIAS):
        write()
    assert reloaded(row) == TOKEN


def test_a_token_that_waits_can_be_given_to_another_row(new_row: MakeRow) -> None:
    """What is not sealed yet is sealed for the row that is saved."""
    first, second = new_row(), new_row(token_ciphertext=OTHER)
    second.token_ciphertext = first.token_ciphertext
    second.save()

    assert reloaded(second) == TOKEN


def test_a_row_without_a_project_cannot_be_sealed_for(new_row: MakeRow) -> None:
    """There would be nothing to bind the token to."""
    row = new_row(project=None)

    with pytest.raises(ValueError, match="primary key first"):
        row.save()
    row.pk = None
    with pytest.raises(ValueError, match="primary key first"):
        row._meta.get_field("token_ciphertext").context_of(row)


def test_a_row_that_lost_its_project_does_not_open(row: CodeRepository) -> None:
    """The same error as for any other token that does not belong where it is."""
    row.project_id = None  # type: ignore[assignment]  # what SET_NULL of a host would do

    with pytest.raises(TokenUndecryptable):
        row.token_ciphertext.reveal()


def test_garbage_in_the_database_is_loud_where_it_is_opened_alone(
    row: CodeRepository, caplog: pytest.LogCaptureFixture
) -> None:
    """Lists and other fields of the row still work; the log line has ids and nothing else."""
    overwrite(row, b"garbage" * 60)

    loaded = CodeRepository.objects.get(pk=row.pk)
    loaded.ref = "main"
    loaded.save()
    with caplog.at_level(logging.ERROR), pytest.raises(TokenUndecryptable) as caught:
        loaded.token_ciphertext.reveal()

    assert str(list(CodeRepository.objects.all()))
    assert caught.value.__cause__ is None
    assert [record.getMessage() for record in caplog.records if record.name.startswith("coderepos")] == [
        f"cannot open token_ciphertext of code_repos {row.pk} under key {row.token_kid}"
    ]
    assert stored(row)[0] == b"garbage" * 60


def test_an_unknown_key_is_loud(row: CodeRepository) -> None:
    """A row under a key that the installation does not hold says so."""
    CodeRepository._base_manager.update(token_kid="local:" + "0" * 32)

    with pytest.raises(TokenUndecryptable):
        reloaded(row)


# Shown nowhere ----------------------------------------------------------------------------------------------------


def shown(token: StoredToken) -> str:
    """Everything that printing makes of a token."""
    return f"{token}{token!r}{token:>40}{[token]}%s" % token + json.dumps({"a": token}, default=str) + str(dir(token))


def test_a_token_shows_nothing_of_itself(row: CodeRepository, new_row: MakeRow) -> None:
    """Neither one that waits nor one that is stored."""
    waiting = new_row()

    for text in (shown(row.token_ciphertext), shown(waiting.token_ciphertext), repr(vars(waiting)), repr(waiting)):
        assert TOKEN not in text
        assert TOKEN[8:-4] not in text


def test_a_token_is_never_pickled(row: CodeRepository, new_row: MakeRow) -> None:
    """Neither alone, nor in a row that holds it readable; a stored row in a cache has sealed bytes."""
    for value in (row.token_ciphertext, new_row().token_ciphertext, new_row()):
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(value)

    assert TOKEN.encode() not in pickle.dumps(row)


def test_a_copied_row_in_memory_has_the_token(new_row: MakeRow) -> None:
    """Copying an instance copies no readable text."""
    row = new_row()

    assert copy.copy(row).token_ciphertext.reveal() == TOKEN
    assert copy.deepcopy(row).token_ciphertext.reveal() == TOKEN


def test_reading_it_from_the_class_gives_the_attribute() -> None:
    """As every attribute of a model does."""
    assert CodeRepository.token_ciphertext.field.name == "token_ciphertext"


def test_values_give_sealed_bytes(row: CodeRepository) -> None:
    """A queryset of values reads the column, which is sealed."""
    assert CodeRepository.objects.values_list("token_ciphertext", flat=True).get() == stored(row)[0]


@pytest.mark.parametrize(
    "lookup",
    ["exact", "iexact", "in", "gt", "contains", "startswith", "regex", "range", "length", "date"],
)
def test_a_token_cannot_be_searched_for(db: None, lookup: str) -> None:
    """Two seals of one token share nothing that could be compared, so that asking is a mistake."""
    with pytest.raises(FieldError):
        CodeRepository.objects.filter(**{f"token_ciphertext__{lookup}": b"x"}).exists()


def test_whether_there_is_one_can_be_asked(row: CodeRepository) -> None:
    """The one lookup that makes sense."""
    assert CodeRepository.objects.filter(token_ciphertext__isnull=False).count() == 1


# Fixtures, validation, migrations, threads ------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", ["json", "jsonl", "xml", "python"])
def test_a_fixture_restores_the_row(row: CodeRepository, format_name: str) -> None:
    """Sealed bytes go through ``dumpdata`` and ``loaddata``, and open in their own row alone."""
    data = serializers.serialize(format_name, CodeRepository.objects.without_token())
    CodeRepository.objects.all().delete()

    assert TOKEN not in str(data)
    for restored in serializers.deserialize(format_name, data):
        restored.save()

    assert reloaded(row) == TOKEN


def test_dumpdata_and_loaddata_restore_the_row(row: CodeRepository, tmp_path: Any) -> None:
    """The commands themselves, through a file."""
    fixture = tmp_path / "rows.json"
    call_command(
        "dumpdata", "coderepos_projects.project", "coderepos.coderepository", output=str(fixture), database=ALIAS
    )
    CodeRepository.objects.all().delete()

    call_command("loaddata", str(fixture), verbosity=0, database=ALIAS)

    assert reloaded(row) == TOKEN
    assert TOKEN not in fixture.read_text()


@pytest.mark.parametrize("value", [TOKEN, "Zm9v", "nonsense!"])
def test_a_fixture_with_readable_text_is_refused(row: CodeRepository, value: str) -> None:
    """A token that somebody wrote into a fixture does not get into the table."""
    data = json.loads(serializers.serialize("json", [row]))
    data[0]["fields"]["token_ciphertext"] = value
    before = stored(row)

    def load() -> None:
        for restored in serializers.deserialize("json", json.dumps(data)):
            restored.save()

    with pytest.raises((DeserializationError, TokenUndecryptable)), transaction.atomic(using=ALIAS):
        load()
    assert stored(row) == before


def test_full_clean_accepts_rows_with_a_token(row: CodeRepository, new_row: MakeRow) -> None:
    """Before and after they are saved; nothing is sealed by looking."""
    fresh = new_row()

    row.full_clean()
    fresh.full_clean()

    assert isinstance(row.token_ciphertext, SealedToken)
    assert fresh.token_kid == ""
    fresh.save()
    assert reloaded(fresh) == TOKEN


def test_full_clean_misses_a_token_that_is_none(new_row: MakeRow) -> None:
    """The column is never null."""
    with pytest.raises(ValidationError) as caught:
        new_row(token_ciphertext=None).full_clean()

    assert list(caught.value.message_dict) == ["token_ciphertext"]


def test_migrations_do_not_see_a_change() -> None:
    """What deconstruct returns makes an equal field, without any key in it."""
    field = CodeRepository._meta.get_field("token_ciphertext")
    name, path, args, kwargs = field.deconstruct()

    assert (name, path) == ("token_ciphertext", "coderepos.crypto.fields.EncryptedTokenField")
    assert EncryptedTokenField(*args, **kwargs).deconstruct()[1:] == (path, args, kwargs)
    assert MigrationWriter.serialize(field)[0] == (
        "coderepos.crypto.fields.EncryptedTokenField(kid_field='token_kid', origin_field='git_url', "
        "origin_of='coderepos.git.url.origin_of', project_field='project')"
    )
    loader = MigrationLoader(None)
    changes = MigrationAutodetector(
        loader.project_state(), ProjectState.from_apps(apps), NonInteractiveMigrationQuestioner()
    ).changes(graph=loader.graph, trim_to_apps={"coderepos"})
    assert changes == {}


@pytest.mark.django_db(transaction=True)
def test_the_field_can_be_added_to_a_table_with_rows(project: Project) -> None:
    """A later model gets it as a nullable pair; its old rows have none, its new ones a token."""
    with isolate_apps("tests.crypto"):

        class Deploy(SealedTokenModel):
            owner: models.ForeignKey[Any, Any] = models.ForeignKey(Project, models.CASCADE)

            class Meta:
                app_label = "crypto"

        rows = cast("models.Manager[Any]", Deploy._default_manager)
        Deploy._meta.get_field("owner").remote_field.model = Project
        with connection.schema_editor() as editor:
            editor.create_model(Deploy)
        try:
            rows.create(owner=project)
            token = EncryptedTokenField(null=True, kid_field="kid", project_field="owner")
            kid = models.TextField(default="", blank=True)
            token.contribute_to_class(Deploy, "token")
            kid.contribute_to_class(Deploy, "kid")
            with connection.schema_editor() as editor:
                editor.add_field(Deploy, token)
                editor.add_field(Deploy, kid)

            old = rows.get()
            assert old.token is None
            assert json.loads(serializers.serialize("json", [old]))[0]["fields"]["token"] is None
            old.full_clean()
            old.token = TOKEN
            old.save()
            assert rows.get().token.reveal() == TOKEN
            new = Deploy(owner=project, token=TOKEN)
            with pytest.raises(ValueError, match="primary key first"):
                new.save()
            old.token = None
            old.save()
            assert rows.filter(token__isnull=True).count() == 1
        finally:
            with connection.schema_editor() as editor:
                editor.delete_model(Deploy)


@isolate_apps("tests.crypto")
def test_a_field_without_its_key_name_is_an_error_of_the_system_checks() -> None:
    """The name's field has to be there, after the token, and the model has to keep the pair together."""

    class Missing(SealedTokenModel):
        project: models.ForeignKey[Any, Any] = models.ForeignKey(Project, models.CASCADE)
        token = EncryptedTokenField(kid_field="kid")

        class Meta:
            app_label = "crypto"

    class Before(SealedTokenModel):
        project: models.ForeignKey[Any, Any] = models.ForeignKey(Project, models.CASCADE)
        kid = models.TextField()
        token = EncryptedTokenField(kid_field="kid")

        class Meta:
            app_label = "crypto"

    class Right(SealedTokenModel):
        project: models.ForeignKey[Any, Any] = models.ForeignKey(Project, models.CASCADE)
        token = EncryptedTokenField(kid_field="kid")
        kid = models.TextField()

        class Meta:
            app_label = "crypto"

    assert [error.id for error in Missing._meta.get_field("token").check()] == ["coderepos.E011"]
    assert [error.id for error in Before._meta.get_field("token").check()] == ["coderepos.E011"]
    assert Right._meta.get_field("token").check() == []


def test_threads_share_no_state(project: Project) -> None:
    """Eight threads assign, seal and read at once, each its own token, through one field object."""
    field: Any = CodeRepository._meta.get_field("token_ciphertext")
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(50):
            text = f"token-of-{number}-{turn}"
            row = CodeRepository(project_id=project.pk, git_url="https://git.example.org/r", token_ciphertext=text)
            field.seal_pending(row)
            if row.token_ciphertext.reveal() != text:
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
