"""The keys of the installation: what the settings may say, and what the system checks refuse."""

from __future__ import annotations

import base64
import io
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from pytest_django import Settings

from coderepos import checks
from coderepos.crypto import keyring as keyring_module
from coderepos.crypto.envelope import LocalKeyWrapper
from coderepos.crypto.keyring import PRINTED_KEYS, decode_key, keyring
from coderepos.crypto.message import Context
from coderepos.exceptions import EncryptionUnavailable, TokenUndecryptable

ROOT = Path(__file__).parents[2]
KEY = bytes(range(100, 132))
OTHER_KEY = bytes(range(200, 232))
HERE = Context(table="code_repos", field="token_ciphertext", row_id="1", project_id="2")


def encoded(key: bytes) -> str:
    """A key as it stands in the settings."""
    return base64.b64encode(key).decode()


URL_SAFE = base64.urlsafe_b64encode(b"\xfb\xff" * 16).decode()
UNUSABLE: dict[str, Any] = {
    "padding alone": "====",
    "31 bytes": encoded(KEY[:31]),
    "33 bytes": encoded(KEY + b"x"),
    "16 bytes": encoded(KEY[:16]),
    "url-safe": URL_SAFE,
    "hex": KEY.hex(),
    "a space after it": encoded(KEY) + " ",
    "a line end after it": encoded(KEY) + "\n",
    "a space inside": encoded(KEY)[:20] + " " + encoded(KEY)[20:],
    "no padding": encoded(KEY).rstrip("="),
    "two paddings": encoded(KEY) + "=",
    "bits left over": encoded(KEY)[:-2] + "d=",
    "quotes around it": f'"{encoded(KEY)}"',
    "not ASCII": "é" * 44,
    "bytes": encoded(KEY).encode(),
    "a number": 7,
}


def found(settings: Settings, **values: Any) -> list[str]:
    """The ids that the system checks report for keys, after it is sure that no message shows one."""
    settings.CODEREPOS = {**settings.CODEREPOS, "MASTER_ENCRYPTION_KEY": None, **values}
    messages = checks.check_keys()
    text = "".join(f"{message!r}{message.msg}{message.hint}" for message in messages)
    for value in (*values.values(), *values.get("DECRYPT_ONLY_MASTER_KEYS", ())):
        if isinstance(value, str) and len(value) > 8:
            assert value[:8] not in text
    return [str(message.id).removeprefix("coderepos.") for message in messages]


@pytest.mark.parametrize("text", UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_key_is_refused_at_start(settings: Settings, text: Any) -> None:
    """Only strict base64 of exactly 32 bytes is a key, and no message has a byte of what was given."""
    assert found(settings, MASTER_ENCRYPTION_KEY=text) == ["E021"]
    assert found(settings, MASTER_ENCRYPTION_KEY=encoded(KEY), DECRYPT_ONLY_MASTER_KEYS=[text]) == ["E021"]


@pytest.mark.parametrize("text", UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_key_seals_nothing(settings: Settings, text: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A process that started in spite of the checks stores nothing, and says nothing of the key."""
    settings.CODEREPOS = {**settings.CODEREPOS, "MASTER_ENCRYPTION_KEY": text}

    with caplog.at_level(logging.DEBUG), pytest.raises(EncryptionUnavailable) as caught:
        keyring().seal("token", HERE)

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert str(text)[:8] not in caplog.text or text == 7


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        ({}, ["E020"]),
        ({"DECRYPT_ONLY_MASTER_KEYS": [encoded(KEY)]}, ["E020"]),
        ({"MASTER_ENCRYPTION_KEY": ""}, ["E020"]),
        ({"MASTER_ENCRYPTION_KEY": encoded(KEY)}, []),
        ({"MASTER_ENCRYPTION_KEY": encoded(bytes(32))}, ["E022"]),
        ({"MASTER_ENCRYPTION_KEY": encoded(b"k" * 32)}, ["E022"]),
        *(({"MASTER_ENCRYPTION_KEY": encoded(key)}, ["E023"]) for key in sorted(PRINTED_KEYS)),
        ({"MASTER_ENCRYPTION_KEY": encoded(KEY), "DECRYPT_ONLY_MASTER_KEYS": [encoded(KEY)]}, ["E024"]),
        (
            {
                "MASTER_ENCRYPTION_KEY": encoded(KEY),
                "DECRYPT_ONLY_MASTER_KEYS": [encoded(OTHER_KEY), encoded(OTHER_KEY)],
            },
            ["E024"],
        ),
        ({"MASTER_ENCRYPTION_KEY": encoded(KEY), "DECRYPT_ONLY_MASTER_KEYS": [encoded(OTHER_KEY)]}, []),
        ({"MASTER_ENCRYPTION_KEY": encoded(KEY), "PRIMARY_KEY": "local"}, []),
        ({"MASTER_ENCRYPTION_KEY": encoded(KEY), "PRIMARY_KEY": "kms"}, ["E028"]),
        ({"MASTER_ENCRYPTION_KEY": encoded(KEY), "PRIMARY_KEY": "both"}, ["E028"]),
    ],
)
def test_faults_of_keys_have_ids_of_their_own(settings: Settings, values: dict[str, Any], ids: list[str]) -> None:
    """No key, equal bytes, a key of the documentation, the same key twice, an unclear primary: each has its id."""
    assert found(settings, **values) == ids


def test_the_documentation_explains_each_id() -> None:
    """Every fault that can be reported stands in the page, and no other."""
    source, page = Path(str(keyring_module.__file__)).read_text(), (ROOT / "docs" / "encryption.md").read_text()

    reported = {f"E02{number}" for number in re.findall(r"yield (\d), ", source)}
    assert reported == set(re.findall(r"^\| `coderepos\.(E\d+)` \|", page, re.MULTILINE))


def test_every_printed_key_has_the_size_of_a_key() -> None:
    """A list of keys that could not be keys would refuse nothing."""
    assert PRINTED_KEYS
    assert {len(key) for key in PRINTED_KEYS} == {32}


def test_the_message_of_a_bad_key_has_no_part_of_it() -> None:
    """Also the exception's chain is empty: binascii's own messages quote."""
    with pytest.raises(ValueError, match=r"\AA master key must be base64\.\Z") as caught:
        decode_key("not!base64")

    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_decrypt_only_key_opens_and_never_seals(settings: Settings) -> None:
    """What the old primary sealed opens before and after the change of keys."""
    settings.CODEREPOS = {**settings.CODEREPOS, "MASTER_ENCRYPTION_KEY": encoded(OTHER_KEY)}
    sealed, kid = keyring().seal("token", HERE)
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "MASTER_ENCRYPTION_KEY": encoded(KEY),
        "DECRYPT_ONLY_MASTER_KEYS": [encoded(OTHER_KEY)],
    }

    assert keyring().open(sealed, kid, HERE) == "token"
    assert keyring().seal("token", HERE)[1] == LocalKeyWrapper(KEY).kid != kid


def test_settings_are_read_live(settings: Settings) -> None:
    """Without the key that sealed it, a token does not open; with it, it does again."""
    settings.CODEREPOS = {**settings.CODEREPOS, "MASTER_ENCRYPTION_KEY": encoded(KEY)}
    sealed, kid = keyring().seal("token", HERE)
    settings.CODEREPOS = {**settings.CODEREPOS, "MASTER_ENCRYPTION_KEY": encoded(OTHER_KEY)}
    with pytest.raises(TokenUndecryptable):
        keyring().open(sealed, kid, HERE)

    settings.CODEREPOS = {**settings.CODEREPOS, "MASTER_ENCRYPTION_KEY": encoded(KEY)}

    assert keyring().open(sealed, kid, HERE) == "token"


def test_without_a_key_nothing_is_sealed(settings: Settings) -> None:
    """It is a retryable error, never a readable token."""
    settings.CODEREPOS = {
        **settings.CODEREPOS,
        "MASTER_ENCRYPTION_KEY": None,
        "DECRYPT_ONLY_MASTER_KEYS": [encoded(KEY)],
    }

    with pytest.raises(EncryptionUnavailable) as caught:
        keyring().seal("token", HERE)
    assert caught.value.retryable


def test_a_keyring_shows_no_key(settings: Settings) -> None:
    """Neither it nor its wrappers print a byte."""
    settings.CODEREPOS = {**settings.CODEREPOS, "MASTER_ENCRYPTION_KEY": encoded(KEY)}
    wrapper = keyring().require_primary()

    text = f"{keyring()!r}{keyring()}{wrapper!r}{vars(wrapper)!r}"

    assert encoded(KEY) not in text
    assert KEY.hex()[:16] not in text
    assert repr(KEY)[2:12] not in text


def test_the_wrappers_of_one_setting_are_made_once() -> None:
    """Deriving keys for every token would be work for nothing."""
    assert keyring().require_primary() is keyring().require_primary()


def test_a_failure_to_open_is_logged_by_ids(caplog: pytest.LogCaptureFixture) -> None:
    """The line says which row and which key, and that is all."""
    sealed, kid = keyring().seal("ghp_1234567890abcdef", HERE)

    with caplog.at_level(logging.DEBUG), pytest.raises(TokenUndecryptable) as caught:
        keyring().open(sealed[:-1] + b"\0", kid, HERE)

    assert [record.getMessage() for record in caplog.records] == [
        f"cannot open token_ciphertext of code_repos 1 under key {kid}"
    ]
    assert not caplog.records[0].exc_info
    assert caught.value.__cause__ is None


def test_generate_key_prints_a_key_and_nothing_else(settings: Settings) -> None:
    """Its output is a usable value, another one each time."""
    keys = set()
    for _ in range(3):
        printed = io.StringIO()
        call_command("coderepos_generate_key", stdout=printed)
        keys.add(printed.getvalue())

    assert len(keys) == 3
    for line in keys:
        assert line.endswith("\n")
        assert found(settings, MASTER_ENCRYPTION_KEY=line.removesuffix("\n")) == []


def test_generate_key_works_before_there_is_a_key(child_environment: dict[str, str]) -> None:
    """The first command of a new installation runs while the system checks would fail."""
    done = subprocess.run(
        [sys.executable, "manage.py", "coderepos_generate_key"],
        env={**child_environment, "CODEREPOS_TEST_OVERRIDES": '{"MASTER_ENCRYPTION_KEY": null}'},
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert len(decode_key(done.stdout.decode().strip())) == 32
    assert done.stderr == b""
