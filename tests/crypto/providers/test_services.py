"""Every key management service through its official client, against a server on loopback that speaks its protocol."""

from __future__ import annotations

import logging
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from coderepos.crypto import envelope
from coderepos.crypto.envelope import KeyWrapper, LocalKeyWrapper
from coderepos.crypto.message import Context
from coderepos.crypto.providers import kms_call
from coderepos.exceptions import EncryptionUnavailable, TokenUndecryptable
from coderepos.hidden import HiddenBytes
from tests.support.frames import watched
from tests.support.servers.key_services import LEFT_OPEN, Aws, Azure, Gcp, Service, Vault, running

pytestmark = pytest.mark.filterwarnings(LEFT_OPEN)

CONTEXT = Context(table="code_repos", field="token_ciphertext", row_id="row", project_id="project")
DEK = bytes(range(100, 132))
AAD = b"where the message belongs" * 12


@pytest.fixture(params=[Aws, Gcp, Azure, Vault], ids=lambda kind: kind.__name__)
def service(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """One of the services, with short waits."""
    for name in ("AWS_ENDPOINT_URL_KMS", "VAULT_ADDR", "VAULT_TOKEN"):
        monkeypatch.setenv(name, "")  # so that what the service sets is undone
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unused")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "unused")
    monkeypatch.setattr(kms_call, "TOTAL_SECONDS", 1.5)
    monkeypatch.setattr(kms_call, "PAUSE_SECONDS", 0.01)
    with running(request.param, tmp_path) as service:
        yield service


@pytest.fixture
def wrapper(service: Service) -> KeyWrapper:
    """The wrapper of the service's key, the requests that made it forgotten."""
    wrapper = service.wrapper()
    service.requests.clear()
    return wrapper


def test_a_data_key_comes_back(service: Service, wrapper: KeyWrapper) -> None:
    """What is wrapped unwraps, under the full name of the key, and is not readable meanwhile."""
    wrapped = wrapper.wrap(DEK, AAD)

    assert wrapper.unwrap(wrapped, AAD) == DEK
    assert DEK not in wrapped
    assert wrapper.kid == service.kid


def test_no_frame_of_ours_names_a_data_key(service: Service, wrapper: KeyWrapper) -> None:
    """An exception in the middle of a call, or in the thread that makes it, shows the data key to no reporter."""
    with watched(DEK, b64encode(DEK)) as seen:
        sealed = envelope._seal_from_parts(
            b"token", wrapper=wrapper, context=CONTEXT, dek=HiddenBytes(DEK), message_id=bytes(32), nonce=bytes(12)
        )
        envelope.open_sealed(sealed, wrapper=wrapper, context=CONTEXT)

    assert {place for place in seen.found if place.startswith("coderepos")} == set()
    assert seen.lines > 50


def test_a_message_is_sealed_by_a_service_and_moves_to_a_local_key(wrapper: KeyWrapper) -> None:
    """Both ways between a service and a local key only byte 5 and the wrapped data key change."""
    local = LocalKeyWrapper(bytes(range(32)))
    sealed = envelope.seal(b"token", wrapper=wrapper, context=CONTEXT)

    moved = envelope.rewrap(sealed, old=wrapper, new=local, context=CONTEXT)
    back = envelope.rewrap(moved, old=local, new=wrapper, context=CONTEXT)

    assert envelope.open_sealed(moved, wrapper=local, context=CONTEXT) == b"token"
    assert envelope.open_sealed(back, wrapper=wrapper, context=CONTEXT) == b"token"
    assert sealed[5] == back[5] == wrapper.wrap_alg != moved[5]
    assert sealed[:5] == moved[:5] == back[:5]
    assert sealed[6:82] == moved[6:82] == back[6:82]
    assert sealed[-272:] == moved[-272:] == back[-272:]


def test_older_versions_of_a_key_still_open(service: Service, wrapper: KeyWrapper) -> None:
    """The version stays inside the wrapped bytes; the name of the key does not change with it."""
    wrapped = wrapper.wrap(DEK, AAD)

    service.rotate()

    assert wrapper.unwrap(wrapped, AAD) == DEK
    assert wrapper.unwrap(wrapper.wrap(DEK, AAD), AAD) == DEK
    assert service.wrapper().kid == wrapper.kid


def test_another_place_is_refused(wrapper: KeyWrapper) -> None:
    """A data key that was wrapped for another row does not unwrap."""
    wrapped = wrapper.wrap(DEK, AAD)

    with pytest.raises(TokenUndecryptable):
        wrapper.unwrap(wrapped, AAD + b".")


def test_changed_bytes_are_refused(wrapper: KeyWrapper) -> None:
    """No byte of the wrapped data key can change; which of our two errors it is depends on what the byte was."""
    wrapped = wrapper.wrap(DEK, AAD)

    for position in (len(wrapped) // 2, -1):
        changed = bytearray(wrapped)
        changed[position] ^= 1
        with pytest.raises((TokenUndecryptable, EncryptionUnavailable)):
            wrapper.unwrap(bytes(changed), AAD)
    for nothing in (b"", b"vault:v1:", b"\xff" * 40, b"0" * 300):
        with pytest.raises((TokenUndecryptable, EncryptionUnavailable)):
            wrapper.unwrap(nothing, AAD)


def test_a_disabled_key_can_be_enabled_again(service: Service, wrapper: KeyWrapper) -> None:
    """Nothing is lost while a key is disabled: the error says try again, and the same bytes open later."""
    wrapped = wrapper.wrap(DEK, AAD)

    service.enabled = False
    with pytest.raises(EncryptionUnavailable):
        wrapper.unwrap(wrapped, AAD)
    with pytest.raises(EncryptionUnavailable):
        wrapper.wrap(DEK, AAD)

    service.enabled = True
    assert wrapper.unwrap(wrapped, AAD) == DEK


@pytest.mark.parametrize("fault", [429, 500, 503, "close"])
def test_a_transient_fault_is_asked_once_more(service: Service, wrapper: KeyWrapper, fault: int | str) -> None:
    """Throttling, an error of the server or a lost connection: the second answer counts."""
    wrapped = wrapper.wrap(DEK, AAD)

    service.faults = [fault]

    assert wrapper.unwrap(wrapped, AAD) == DEK


@pytest.mark.parametrize("fault", [429, 500, 503, "close"])
def test_after_two_attempts_it_is_unavailable(service: Service, wrapper: KeyWrapper, fault: int | str) -> None:
    """Never a third attempt, and never a refusal of the token for what is an outage."""
    wrapped = wrapper.wrap(DEK, AAD)
    service.requests.clear()

    service.faults = [fault] * 20
    with pytest.raises(EncryptionUnavailable):
        wrapper.unwrap(wrapped, AAD)
    asked = len(service.requests)
    with pytest.raises(EncryptionUnavailable):
        wrapper.wrap(DEK, AAD)

    assert asked == 2 or (isinstance(service, Azure) and asked <= 4)  # which asks for the key first


@pytest.mark.parametrize("status", [401, 403])
def test_missing_rights_are_not_asked_twice(service: Service, wrapper: KeyWrapper, status: int) -> None:
    """Somebody has to give the rights first; the token is not lost."""
    wrapped = wrapper.wrap(DEK, AAD)
    service.requests.clear()

    service.faults = [status] * 20
    with pytest.raises(EncryptionUnavailable):
        wrapper.unwrap(wrapped, AAD)

    assert len(service.requests) <= (4 if isinstance(service, Azure) else 1)


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_a_slow_answer_is_not_waited_for(
    service: Service, wrapper: KeyWrapper, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither silence nor one byte every now and then holds the caller beyond the limit."""
    wrapped = wrapper.wrap(DEK, AAD)
    service.faults = [fault] * 20
    monkeypatch.setattr(kms_call, "TOTAL_SECONDS", 0.3)
    started = time.monotonic()

    with pytest.raises(EncryptionUnavailable):
        wrapper.unwrap(wrapped, AAD)

    assert time.monotonic() - started < 2.5


def test_a_stopped_service_is_unavailable(service: Service, wrapper: KeyWrapper) -> None:
    """Nobody listens: the error says try again."""
    wrapped = wrapper.wrap(DEK, AAD)
    service.stop()

    with pytest.raises(EncryptionUnavailable):
        wrapper.unwrap(wrapped, AAD)
    with pytest.raises(EncryptionUnavailable):
        wrapper.wrap(DEK, AAD)


@pytest.mark.parametrize("answer", [b"", b"short", bytes(31), bytes(33), bytes(64)])
def test_a_data_key_of_another_size_opens_nothing(service: Service, wrapper: KeyWrapper, answer: bytes) -> None:
    """Whatever a service answers, a message only opens by its own data key."""
    sealed = envelope.seal(b"token", wrapper=wrapper, context=CONTEXT)
    service.plaintext = answer

    with pytest.raises(TokenUndecryptable):
        envelope.open_sealed(sealed, wrapper=wrapper, context=CONTEXT)


def test_the_answer_of_another_key_is_not_stored(service: Service, wrapper: KeyWrapper) -> None:
    """What another key wrapped would be lost under our name for it."""
    service.wrong_name = True

    with pytest.raises(EncryptionUnavailable):
        wrapper.wrap(DEK, AAD)


def test_no_log_quotes_a_service(service: Service, wrapper: KeyWrapper, caplog: pytest.LogCaptureFixture) -> None:
    """Errors are logged by key and type: their texts may quote the request, which holds the data key."""
    caplog.set_level(logging.INFO, logger="coderepos")
    wrapped = wrapper.wrap(DEK, AAD)

    for status in (400, 403, 500):
        service.faults = [status] * 20
        with pytest.raises((TokenUndecryptable, EncryptionUnavailable)) as caught:
            wrapper.unwrap(wrapped, AAD)
        with pytest.raises(EncryptionUnavailable):
            wrapper.wrap(DEK, AAD)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None

    assert wrapper.kid in caplog.text
    assert "quoted" not in caplog.text
