"""AWS KMS as moto and botocore's own stubs show it: what a fake of ours could get wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto.server import ThreadedMotoServer

from coderepos.crypto.providers import open_key
from coderepos.crypto.providers.aws import AwsKeyWrapper
from coderepos.exceptions import EncryptionUnavailable, TokenUndecryptable

REGION = "eu-central-1"
ARN = f"arn:aws:kms:{REGION}:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
DEK = bytes(range(32))


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are nobody's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unused")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "unused")


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a moto server on loopback, which the environment names as the endpoint too."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://{host}:{port}")
    yield boto3.client("kms", region_name=REGION)
    server.stop()


@pytest.fixture
def stubbed() -> Iterator[tuple[AwsKeyWrapper, Stubber]]:
    """A wrapper whose client answers what a test tells it to."""
    client = boto3.client("kms", region_name=REGION)
    with Stubber(client) as stubber:
        stubber.add_response("describe_key", {"KeyMetadata": {"KeyId": ARN, "Arn": ARN}}, {"KeyId": ARN})
        yield AwsKeyWrapper(ARN, client), stubber


def test_a_key_of_moto_wraps_and_unwraps(kms: Any) -> None:
    """The round trip, the refusal of another row, and the refusal of what another key wrapped."""
    first, second = (open_key(kms.create_key()["KeyMetadata"]["Arn"]) for _ in range(2))
    wrapped = first.wrap(DEK, b"row")

    assert first.unwrap(wrapped, b"row") == DEK
    with pytest.raises(TokenUndecryptable):
        first.unwrap(wrapped, b"another row")
    with pytest.raises((TokenUndecryptable, EncryptionUnavailable)):
        second.unwrap(wrapped, b"row")


def test_an_alias_becomes_the_name_of_its_key(kms: Any) -> None:
    """The kid is the key's; when the alias moves, a new wrapper has another kid, and the old one goes on opening."""
    arns = [kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2)]
    alias = arns[0].rpartition(":")[0] + ":alias/coderepos"
    kms.create_alias(AliasName="alias/coderepos", TargetKeyId=arns[0])
    before = open_key(f"aws-kms://{alias}")
    wrapped = before.wrap(DEK, b"row")

    kms.update_alias(AliasName="alias/coderepos", TargetKeyId=arns[1])
    after = open_key(f"aws-kms://{alias}")

    assert (before.kid, after.kid) == (f"aws-kms://{arns[0]}", f"aws-kms://{arns[1]}")
    assert before.unwrap(wrapped, b"row") == DEK


def test_an_unknown_key_is_unavailable(kms: Any) -> None:
    """A wrong name in the settings is no reason to call a token lost."""
    with pytest.raises(EncryptionUnavailable):
        open_key(ARN)


def test_the_context_is_a_hash(stubbed: tuple[AwsKeyWrapper, Stubber]) -> None:
    """AWS logs the encryption context: it holds no name of ours, and the key is always named."""
    wrapper, stubber = stubbed
    digest = hashlib.sha256(b"row").hexdigest()
    expected = {"KeyId": ARN, "Plaintext": DEK, "EncryptionContext": {"coderepos": digest}}
    stubber.add_response("encrypt", {"KeyId": ARN, "CiphertextBlob": b"wrapped"}, expected)

    assert wrapper.wrap(DEK, b"row") == b"wrapped"
    stubber.assert_no_pending_responses()


@pytest.mark.parametrize(
    "code", ["DisabledException", "KMSInvalidStateException", "AccessDeniedException", "NotFoundException"]
)
def test_a_key_that_cannot_be_used_is_unavailable(stubbed: tuple[AwsKeyWrapper, Stubber], code: str) -> None:
    """A disabled key, one that waits to be deleted, missing rights: asked once, and no token is called lost."""
    wrapper, stubber = stubbed
    for method in ("encrypt", "decrypt"):
        stubber.add_client_error(method, code, "text of the service", 400)

    with pytest.raises(EncryptionUnavailable):
        wrapper.wrap(DEK, b"row")
    with pytest.raises(EncryptionUnavailable):
        wrapper.unwrap(b"wrapped", b"row")

    stubber.assert_no_pending_responses()


@pytest.mark.parametrize("code", ["InvalidCiphertextException", "IncorrectKeyException"])
def test_a_refused_ciphertext_is_undecryptable(stubbed: tuple[AwsKeyWrapper, Stubber], code: str) -> None:
    """The two answers that concern the bytes themselves."""
    wrapper, stubber = stubbed
    stubber.add_client_error("decrypt", code, "text of the service", 400)

    with pytest.raises(TokenUndecryptable):
        wrapper.unwrap(b"wrapped", b"row")


def test_another_keys_answer_opens_nothing(stubbed: tuple[AwsKeyWrapper, Stubber]) -> None:
    """The name of the key that answered is compared with ours."""
    wrapper, stubber = stubbed
    stubber.add_response("decrypt", {"KeyId": ARN[:-1] + "0", "Plaintext": DEK})

    with pytest.raises(TokenUndecryptable):
        wrapper.unwrap(b"wrapped", b"row")
