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
from django.db import DatabaseError, connection, connections, models, transaction
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
    CodeRepository(id=form(pk), project_id=form(project.pk), token_ciphertext=Secret(TOKEN)).save()

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
        with pytest.raises(TokenUndecryptable), transaction.atomic():
            write()
    assert stored(row) == before
    assert CodeRepository.objects.count() == 1


def test_a_raw_save_does_not_store_what_waits_to_be_sealed(new_row: MakeRow) -> None:
    """A raw save, as loaddata does it, seals nothing, and so refuses."""
    with pytest.raises(TypeError), transaction.atomic():
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
    first, made = CodeRepository.objects.get_or_create(
        project=project, url_key="k", ref="", defaults={"token_ciphertext": TOKEN}
    )
    again, made_again = CodeRepository.objects.update_or_create(
        project=project, url_key="k", ref="", defaults={"token_ciphertext": OTHER}
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


def test_a_copy_of_a_row_does_not_open(row: CodeRepository) -> None:
    """Under a new primary key the token stays closed, loudly, rather than being usable in two places."""
    original = row.pk
    row.pk, row.url_key = uuid.uuid4(), "copy"
    row._state.adding = True
    row.save()

    with pytest.raises(TokenUndecryptable):
        reloaded(row)
    assert CodeRepository.objects.get(pk=original).token_ciphertext.reveal() == TOKEN


def test_a_copy_by_a_changed_key_alone_does_not_open(row: CodeRepository) -> None:
    """The short idiom of copying inserts a row as ever, whose token stays closed."""
    row.pk, row.url_key = uuid.uuid4(), "copy"
    row.save()

    assert CodeRepository.objects.count() == 2
    with pytest.raises(TokenUndecryptable):
        reloaded(row)


def test_a_token_does_not_move_to_another_project(row: CodeRepository) -> None:
    """Giving a repository to another project leaves its token behind."""
    row.project = Project.objects.create(name="Another")
    row.save()

    with pytest.raises(TokenUndecryptable):
        reloaded(row)
    row.token_ciphertext = OTHER
    row.save()
    assert reloaded(row) == OTHER


def test_a_stored_token_given_to_another_row_does_not_open(row: CodeRepository, new_row: MakeRow) -> None:
    """Assigning one row's token to another copies sealed bytes, which do not open there; a new token does."""
    other = new_row(token_ciphertext=row.token_ciphertext)
    other.token_kid = row.token_kid
    other.save()

    with pytest.raises(TokenUndecryptable):
        reloaded(other)
    other.token_ciphertext = row.token_ciphertext.secret()
    other.save()
    assert reloaded(other) == TOKEN


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
    CodeRepository.objects.update(token_ciphertext=row.token_ciphertext.sealed, token_kid="local:" + "0" * 32)

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
    """dumpdata and loaddata carry sealed bytes, which open in their own row alone."""
    data = serializers.serialize(format_name, CodeRepository.objects.without_token())
    CodeRepository.objects.all().delete()

    assert TOKEN not in str(data)
    for restored in serializers.deserialize(format_name, data):
        restored.save()

    assert reloaded(row) == TOKEN


def test_dumpdata_and_loaddata_restore_the_row(row: CodeRepository, tmp_path: Any) -> None:
    """The commands themselves, through a file."""
    fixture = tmp_path / "rows.json"
    call_command("dumpdata", "coderepos_projects.project", "coderepos.coderepository", output=str(fixture))
    CodeRepository.objects.all().delete()

    call_command("loaddata", str(fixture), verbosity=0)

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

    with pytest.raises((DeserializationError, TokenUndecryptable)), transaction.atomic():
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
        "coderepos.crypto.fields.EncryptedTokenField(kid_field='token_kid', project_field='project')"
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
            row = CodeRepository(project_id=project.pk, token_ciphertext=text)
            field.seal_pending(row)
            if row.token_ciphertext.reveal() != text:
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
