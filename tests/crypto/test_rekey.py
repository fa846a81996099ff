"""Rotation: every token gets under the new key while the site works, whatever is killed meanwhile."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from pytest_django import Settings

from coderepos.crypto import envelope, rotation
from coderepos.crypto.envelope import LocalKeyWrapper
from coderepos.crypto.message import Envelope
from coderepos.crypto.secret import Secret
from coderepos.exceptions import EncryptionUnavailable
from coderepos.models import CodeRepository
from coderepos.projects.models import Project
from tests.crypto.conftest import TOKEN, MakeRow
from tests.support.cluster import wait_until
from tests.support.database import ALIAS, connection

ROOT = Path(__file__).parents[2]
OLD_KEY, NEW_KEY = (base64.b64encode(bytes(range(start, start + 32))).decode() for start in (0, 50))
OLD, NEW = (LocalKeyWrapper(base64.b64decode(key)) for key in (OLD_KEY, NEW_KEY))
BEFORE = {"MASTER_ENCRYPTION_KEY": OLD_KEY, "DECRYPT_ONLY_MASTER_KEYS": [NEW_KEY]}
DURING = {"MASTER_ENCRYPTION_KEY": NEW_KEY, "DECRYPT_ONLY_MASTER_KEYS": [OLD_KEY]}
AFTER = {"MASTER_ENCRYPTION_KEY": NEW_KEY, "DECRYPT_ONLY_MASTER_KEYS": []}


@pytest.fixture
def use(settings: Settings) -> Callable[[dict[str, Any]], None]:
    """Return what gives this process other keys."""

    def change(keys: dict[str, Any]) -> None:
        settings.CODEREPOS = {**settings.CODEREPOS, **keys}

    return change


@pytest.fixture
def rows(new_row: MakeRow, use: Callable[[dict[str, Any]], None]) -> list[CodeRepository]:
    """Seven rows that the old key sealed, while the new one is already the primary."""
    use(BEFORE)
    made: list[CodeRepository] = CodeRepository.objects.bulk_create([new_row() for _ in range(7)])
    use(DURING)
    return made


def rekey(*arguments: str) -> tuple[int, str, str]:
    """Run the command; its exit status, its output and its complaints."""
    output, errors = io.StringIO(), io.StringIO()
    try:
        call_command("coderepos_rekey", *arguments, stdout=output, stderr=errors)
    except CommandError as error:
        return error.returncode, output.getvalue(), f"{errors.getvalue()}{error}"
    return 0, output.getvalue(), errors.getvalue()


def kids() -> dict[str, int]:
    """How many rows there are under each key."""
    return rotation.count_by_kid(rotation.sealed_columns()[0], using=ALIAS)


def test_every_token_moves_under_the_primary_key(
    rows: list[CodeRepository], use: Callable[[dict[str, Any]], None]
) -> None:
    """Afterwards the old key can go; only the wrapped data key has changed."""
    before = {row.pk: Envelope.unpack(row.token_ciphertext.sealed) for row in rows}

    status, output, errors = rekey("--batch-rows", "3")

    use(AFTER)
    assert (status, errors, kids()) == (0, "", {NEW.kid: 7})
    assert f"code_repos.token_ciphertext: 7 under {OLD.kid}\n" in output
    assert "code_repos.token_ciphertext: 7 moved\n" in output
    assert f"code_repos.token_ciphertext: 7 under {NEW.kid} (primary)\n" in output
    for row in CodeRepository.objects.all():
        assert row.token_ciphertext.reveal() == TOKEN
        after = Envelope.unpack(row.token_ciphertext.sealed)
        assert after.wrapped != before[row.pk].wrapped
        assert (after.ciphertext, after.nonce, after.message_id, after.commitment) == (
            before[row.pk].ciphertext,
            before[row.pk].nonce,
            before[row.pk].message_id,
            before[row.pk].commitment,
        )


def test_it_can_be_repeated(rows: list[CodeRepository]) -> None:
    """A second run has nothing to do and says so."""
    rekey()
    sealed = CodeRepository.objects.order_by("pk").values_list("token_ciphertext", flat=True)
    before = list(sealed.all())

    status, output, _ = rekey()

    assert status == 0
    assert "0 moved" in output
    assert list(sealed.all()) == before


def test_an_empty_table_is_fine(db: None) -> None:
    """The first rotation may come before the first repository."""
    name = "code_repos.token_ciphertext"

    assert rekey()[:2] == (0, f"{name}: no tokens\n{name}: 0 moved\n{name}: no tokens\n")


def test_a_rehearsal_writes_nothing(rows: list[CodeRepository]) -> None:
    """Every token is tried, none is changed, and the status says whether all could be moved."""
    status, output, errors = rekey("--dry-run", "--batch-rows", "2")

    assert (status, errors, kids()) == (0, "", {OLD.kid: 7})
    assert "7 can be moved" in output


def test_a_token_that_does_not_open_stays_and_is_named(rows: list[CodeRepository]) -> None:
    """The others move; the status and the row's id tell the operator that the old key is still needed."""
    lost = CodeRepository.objects.get(pk=rows[3].pk)
    moved = Project.objects.create(name="Another")
    CodeRepository._base_manager.filter(pk=lost.pk).update(project=moved)

    assert rekey("--dry-run")[0] == 3
    status, _, errors = rekey()

    assert status == 3
    assert f"the token of row {lost.pk} does not open under any key" in errors
    assert "1 tokens are not under the primary key" in errors
    assert kids() == {NEW.kid: 6, OLD.kid: 1}


def test_many_that_do_not_open_are_counted(new_row: MakeRow, use: Callable[[dict[str, Any]], None]) -> None:
    """A wrong key would else fill the screen; without the old key nothing is changed."""
    use(BEFORE)
    CodeRepository.objects.bulk_create([new_row() for _ in range(25)])
    use(AFTER)

    status, _, errors = rekey()

    assert status == 3
    assert errors.count("does not open under any key") == 20
    assert "and 5 more" in errors
    assert kids() == {OLD.kid: 25}


@pytest.mark.parametrize("keys", [{"MASTER_ENCRYPTION_KEY": None}, {"MASTER_ENCRYPTION_KEY": "nonsense"}])
def test_without_a_primary_key_nothing_moves(
    rows: list[CodeRepository], use: Callable[[dict[str, Any]], None], keys: dict[str, Any]
) -> None:
    """A status of its own: there is nothing wrong with the tokens."""
    use(keys)

    status, _, errors = rekey()

    assert status == 4
    assert "currently unavailable" in errors


def test_a_key_that_goes_away_in_the_middle_keeps_what_was_moved(
    rows: list[CodeRepository], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of a key management service ends the run with its status; the next run goes on."""
    rewrap, calls = envelope.rewrap, 0

    def fail_later(*args: Any, **kwargs: Any) -> bytes:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise EncryptionUnavailable
        return rewrap(*args, **kwargs)

    monkeypatch.setattr(envelope, "rewrap", fail_later)
    assert rekey("--batch-rows", "2")[0] == 4
    assert kids() == {OLD.kid: 3, NEW.kid: 4}
    monkeypatch.undo()

    assert rekey()[0] == 0


def test_batches_have_a_row_at_least(db: None) -> None:
    """Anything below would go on for ever."""
    with pytest.raises(CommandError, match="from 1 to"):
        call_command("coderepos_rekey", "--batch-rows", "0")


class Terminal(io.StringIO):
    """An output that a person looks at."""

    def isatty(self) -> bool:
        """It is a terminal."""
        return True


def test_a_person_sees_progress(rows: list[CodeRepository]) -> None:
    """A bar on a terminal, from the first batch to the last."""
    output = Terminal()

    call_command("coderepos_rekey", "--batch-rows", "3", stdout=output, no_color=True)

    assert "\r[#################.......................] 3/7" in output.getvalue()
    assert f"\r[{'#' * 40}] 7/7\n" in output.getvalue()


def test_a_token_that_changes_meanwhile_is_not_overwritten(
    rows: list[CodeRepository], use: Callable[[dict[str, Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading and writing a row another process may store a new token, even under the old key: it stays."""
    swap = rotation._swap

    def overtaken(*args: Any) -> int:
        monkeypatch.setattr(rotation, "_swap", swap)
        use(BEFORE)
        row = CodeRepository.objects.get(pk=rows[0].pk)
        row.token_ciphertext = Secret("new-token-of-the-meantime")
        row.save()
        use(DURING)
        return swap(*args)

    monkeypatch.setattr(rotation, "_swap", overtaken)
    status, output, _ = rekey()

    use(AFTER)
    assert status == 0
    assert "7 moved" in output
    assert CodeRepository.objects.get(pk=rows[0].pk).token_ciphertext.reveal() == "new-token-of-the-meantime"


def test_rows_that_are_never_free_are_reported(rows: list[CodeRepository], monkeypatch: pytest.MonkeyPatch) -> None:
    """After some passes in vain the command gives up, with the status that says so."""
    monkeypatch.setattr(rotation, "_swap", lambda *args: 0)
    monkeypatch.setattr(rotation, "IDLE_SECONDS", 0.001)

    status, _, errors = rekey()

    assert status == 3
    assert "7 tokens are not under the primary key" in errors


@pytest.mark.django_db(transaction=True)
def test_a_row_that_somebody_holds_is_moved_once_it_is_free(rows: list[CodeRepository]) -> None:
    """A lock of another transaction delays its row, and loses no change."""
    held = threading.Event()

    def hold() -> None:
        with transaction.atomic(using=ALIAS):
            CodeRepository.objects.filter(pk=rows[2].pk).update(ref="held")
            held.set()
            time.sleep(0.6)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    status, _, _ = rekey("--batch-rows", "2")
    thread.join()

    assert (status, kids()) == (0, {NEW.kid: 7})
    assert CodeRepository.objects.get(pk=rows[2].pk).ref == "held"


def test_every_sealed_column_is_found() -> None:
    """Of any app, by looking at the models; a later one is not forgotten."""
    assert [str(column) for column in rotation.sealed_columns()] == ["coderepos.CodeRepository.token_ciphertext"]


ROWS = 120


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_rotation_while_the_site_works(
    new_row: MakeRow, use: Callable[[dict[str, Any]], None], child_environment: dict[str, str]
) -> None:
    """Two processes read and two write under the old key while the command runs, is killed, and runs again.

    No reader ever fails to open a token or sees one that is not its row's; in the end the old key can be removed.
    """
    use(BEFORE)
    CodeRepository.objects.bulk_create([new_row(token_ciphertext="first", ref="first") for _ in range(ROWS)])

    def start(keys: dict[str, Any], *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**child_environment, "CODEREPOS_TEST_OVERRIDES": json.dumps(keys)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def moved() -> int:
        return kids().get(NEW.kid, 0)

    traffic = [
        start(keys, "-m", "tests.support.programs.token_traffic", kind, str(number))
        for number, (kind, keys) in enumerate(
            [("read", BEFORE), ("read", DURING), ("write", BEFORE), ("write", BEFORE)]
        )
    ]
    try:
        wait_until(lambda: CodeRepository.objects.exclude(ref="first").count() > 5, seconds=60, what="writing")
        killed = start(DURING, "manage.py", "coderepos_rekey", "--batch-rows", "2")
        wait_until(lambda: moved() > ROWS // 10, seconds=60, what="moving")
        killed.kill()
        killed.communicate(timeout=30)
        assert killed.returncode == -9
        assert moved() < ROWS

        second = start(DURING, "manage.py", "coderepos_rekey", "--batch-rows", "10")
        wait_until(lambda: moved() > ROWS // 2, seconds=60, what="moving again")
    finally:
        counted = [json.loads(process.communicate(timeout=60)[0]) for process in traffic]
    second.communicate(timeout=120)
    final = start(DURING, "manage.py", "coderepos_rekey")
    final.communicate(timeout=120)

    use(AFTER)
    assert [process.returncode for process in traffic] == [0, 0, 0, 0]
    assert all(process["done"] > 20 and process["wrong"] == 0 for process in counted), counted
    assert final.returncode == 0
    assert kids() == {NEW.kid: ROWS}
    assert all(row.token_ciphertext.reveal() == row.ref for row in CodeRepository.objects.all())
