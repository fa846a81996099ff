"""Answers and errors that no well-behaved server gives, and clients as the settings make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import BadRequest, GoogleAPICallError
from requests import Response

from coderepos.crypto.providers import azure, gcp, open_key
from coderepos.crypto.providers.kms_call import ErrorClass
from coderepos.exceptions import EncryptionUnavailable
from tests.support.servers.http_server import Exchange
from tests.support.servers.key_services import Aws, Gcp, Vault, running

DEK = bytes(range(32))


def test_crc32c_is_the_one_of_the_rfc() -> None:
    """The examples of RFC 3720, appendix B.4."""
    assert gcp.crc32c(bytes(32)) == 0x8A9136AA
    assert gcp.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert gcp.crc32c(bytes(range(32))) == 0x46DD794E
    assert gcp.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("damage", ["ciphertextCrc32c", "verifiedPlaintextCrc32c"])
def test_damage_on_the_way_to_google_is_not_stored(tmp_path: Path, damage: str) -> None:
    """A ciphertext or a data key that changed on its way would be lost later."""

    class Damaging(Gcp):
        def reply(self, exchange: Exchange) -> tuple[int, dict[str, Any]]:
            """Claim another checksum, or that ours did not fit."""
            status, answer = super().reply(exchange)
            return status, answer | {damage: "1" if damage.startswith("ciphertext") else False}

    with running(Damaging, tmp_path) as service, pytest.raises(EncryptionUnavailable):
        service.wrapper().wrap(DEK, b"row")


def test_google_errors_without_a_body_are_outages_or_faults() -> None:
    """Only Google's own name of an error calls a token lost."""
    page = Response()
    page.status_code, page._content = 400, b"<html>a proxy</html>"
    refused = Response()
    refused.status_code, refused._content = 400, json.dumps({"error": {"status": "INVALID_ARGUMENT"}}).encode()

    assert gcp._classify(BadRequest("text")) is ErrorClass.UNAVAILABLE
    assert gcp._classify(BadRequest("text", response=page)) is ErrorClass.UNAVAILABLE
    assert gcp._classify(BadRequest("text", response=refused)) is ErrorClass.REFUSED
    assert gcp._classify(GoogleAPICallError("text")) is ErrorClass.UNAVAILABLE
    assert gcp._classify(ZeroDivisionError()) is ErrorClass.UNAVAILABLE


def test_google_is_asked_with_default_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of credentials is enough to make the client; Google is asked nothing before the first token."""
    path = tmp_path / "credentials.json"
    user = {"type": "authorized_user", "client_id": "x", "client_secret": "x", "refresh_token": "x"}
    path.write_text(json.dumps(user))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "shop")

    assert open_key(Gcp.kid).kid == Gcp.kid


@pytest.mark.parametrize("answer", [{}, {"data": None}, {"data": {"plaintext": "not base64!"}}, {"errors": []}])
def test_an_answer_of_another_shape_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    """A proxy that answers in place of the service loses no token, and raises no error but ours."""
    for name in ("VAULT_ADDR", "VAULT_TOKEN"):
        monkeypatch.setenv(name, "")

    class Odd(Vault):
        def reply(self, exchange: Exchange) -> tuple[int, dict[str, Any]]:
            """Answer in another shape once there is something to open."""
            return (200, answer) if "/decrypt/" in exchange.path else super().reply(exchange)

    with running(Odd, tmp_path) as service:
        wrapper = service.wrapper()
        wrapped = wrapper.wrap(DEK, b"row")
        with pytest.raises(EncryptionUnavailable):
            wrapper.unwrap(wrapped, b"row")


@pytest.mark.parametrize("answer", [{}, {"KeyMetadata": {}}, {"KeyMetadata": {"KeyId": "x"}}])
def test_a_key_without_a_name_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    """The same for the call that resolves the name of a key."""
    for name in ("AWS_ENDPOINT_URL_KMS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "unused")

    class Odd(Aws):
        def reply(self, exchange: Exchange) -> tuple[int, dict[str, Any]]:
            """Answer in another shape."""
            return 200, answer

    with running(Odd, tmp_path) as service, pytest.raises(EncryptionUnavailable):
        service.wrapper()


def test_an_error_of_azure_that_nobody_knows_is_an_outage() -> None:
    """Neither HTTP nor connection: something else has to be mended first."""
    assert azure._classify(ZeroDivisionError()) is ErrorClass.UNAVAILABLE
