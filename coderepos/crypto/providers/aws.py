"""AWS Key Management Service; credentials and, for tests, the endpoint come from the usual places of boto3."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError

from coderepos.crypto.message import WrapAlgorithm
from coderepos.crypto.providers.kms_call import CONNECT_SECONDS, READ_SECONDS, ErrorClass, call_kms, expect
from coderepos.hidden import HiddenBytes

REFUSALS: Final = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
TRANSIENTS: Final = frozenset(
    {
        "DependencyTimeoutException",
        "InternalFailure",
        "KMSInternalException",
        "LimitExceededException",
        "RequestTimeout",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)


def open_key(name: str) -> AwsKeyWrapper:
    """Return the wrapper of the key with this ARN, in the region that the ARN names."""
    limits = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 1},
        max_pool_connections=4,
    )
    return AwsKeyWrapper(name, boto3.client("kms", region_name=name.split(":")[3], config=limits))


class AwsKeyWrapper:
    """Wraps our own data keys by Encrypt and Decrypt of a symmetric key, the hash of the AAD as encryption context.

    An alias is resolved once, when the wrapper is made: one that moves later changes nothing before the next start.
    """

    wrap_alg: Final = WrapAlgorithm.AWS_KMS

    def __init__(self, name: str, client: Any) -> None:
        """Resolve ``name``.

        :raises EncryptionUnavailable: the service is currently unavailable, or does not know the key.
        """
        self._client = client
        operation = partial(client.describe_key, KeyId=name)
        self._arn: Final = call_kms(f"aws-kms://{name}", lambda: str(operation()["KeyMetadata"]["Arn"]), _classify)
        self.kid: Final = f"aws-kms://{self._arn}"

    def wrap(self, dek: bytes, aad: bytes) -> bytes:
        """Return the encrypted DEK.

        :raises EncryptionUnavailable: the service is currently unavailable, or does not allow it.
        """
        operation = partial(
            self._client.encrypt, KeyId=self._arn, Plaintext=dek, EncryptionContext=_encryption_context(aad)
        )
        name, wrapped = call_kms(self.kid, lambda: _fields(_Answer(operation()), "KeyId", "CiphertextBlob"), _classify)
        expect(self.kid, name == self._arn, "another key answered")
        return bytes(wrapped)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Return the DEK.

        :raises EncryptionUnavailable: the service is currently unavailable, or does not allow it.
        :raises TokenUndecryptable: it was wrapped by another key or for another row, or changed.
        """
        operation = partial(
            self._client.decrypt, KeyId=self._arn, CiphertextBlob=wrapped, EncryptionContext=_encryption_context(aad)
        )
        name, dek = call_kms(
            self.kid, lambda: _fields(_Answer(operation()), "KeyId", "Plaintext"), _classify, opening=True
        )
        expect(self.kid, name == self._arn, "another key answered", opening=True)
        return HiddenBytes(dek)


class _Answer(dict[str, Any]):
    """What the client returned, which may hold a data key: nothing of it shows in frames."""

    def __repr__(self) -> str:
        return "_Answer(...)"


def _fields(answer: _Answer, *names: str) -> tuple[Any, ...]:
    return tuple(HiddenBytes(answer[name]) if isinstance(answer[name], bytes) else answer[name] for name in names)


def _encryption_context(aad: bytes) -> dict[str, str]:
    """Return the AAD as AWS takes one: it stands in the audit log, hence the hash, which says nothing."""
    return {"coderepos": hashlib.sha256(aad).hexdigest()}


def _classify(error: Exception) -> ErrorClass:
    if isinstance(error, HTTPClientError):
        return ErrorClass.TRANSIENT
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in REFUSALS:
            return ErrorClass.REFUSED
        if code in TRANSIENTS or status >= 500 or status == 429:
            return ErrorClass.TRANSIENT
    return ErrorClass.UNAVAILABLE
