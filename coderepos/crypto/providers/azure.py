"""Azure Key Vault; credentials are those of ``DefaultAzureCredential``."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Any, Final

from azure.core import exceptions as azure
from azure.identity import DefaultAzureCredential
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import EncryptionAlgorithm

from coderepos.crypto.message import KEY_BYTES, WrapAlgorithm
from coderepos.crypto.providers.kms_call import CONNECT_SECONDS, READ_SECONDS, ErrorClass, call_kms, expect
from coderepos.hidden import HiddenBytes

ALGORITHM: Final = EncryptionAlgorithm.rsa_oaep_256
DIGEST_BYTES: Final = 32
VERSION_BYTES: Final = 32
TRANSIENT_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
_VERSION: Final = re.compile(rf"[0-9a-f]{{{VERSION_BYTES}}}")
LIMITS: Final[dict[str, Any]] = {
    "connection_timeout": CONNECT_SECONDS,
    "read_timeout": READ_SECONDS,
    "retry_total": 0,
}


def open_key(name: str) -> AzureKeyWrapper:
    """Return the wrapper of the key ``<vault>/<key>``; a vault without a dot is one of the public cloud."""
    host, _, key = name.partition("/")
    url = f"https://{host if '.' in host else f'{host}.vault.azure.net'}"
    return AzureKeyWrapper(name, KeyClient(url, DefaultAzureCredential(), **LIMITS), key)


class AzureKeyWrapper:
    """Wraps data keys by RSA-OAEP-256, which knows no AAD: its hash is encrypted before the DEK, and compared.

    The wrapped form is the version of the key, 32 hex digits, and the RSA ciphertext. Anybody who has the public
    key can make such a form, so it proves no origin; that the message is whole is proved by its data part.
    """

    wrap_alg: Final = WrapAlgorithm.AZURE_KEY_VAULT

    def __init__(self, name: str, client: Any, key: str) -> None:
        self._client = client
        self._key: Final = key
        self.kid: Final = f"azure-kv://{name}"

    def wrap(self, dek: bytes, aad: bytes) -> bytes:
        """Return the encrypted DEK.

        :raises EncryptionUnavailable: the service is currently unavailable, or does not allow it.
        """
        # The client encrypts by itself with the public key, even with a disabled one: hence the call before.
        newest = call_kms(self.kid, lambda: self._client.get_key(self._key), _classify).properties
        expect(self.kid, bool(newest.enabled), "the key is disabled")
        version = str(newest.version)
        expect(self.kid, _VERSION.fullmatch(version) is not None, "the answer names no version of the key")
        answer = call_kms(self.kid, lambda: self._version(version).encrypt(ALGORITHM, _digest(aad) + dek), _classify)
        return version.encode() + bytes(answer.ciphertext)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Return the DEK.

        :raises EncryptionUnavailable: the service is currently unavailable, or does not allow it.
        :raises TokenUndecryptable: it was wrapped by another key or for another row, or changed.
        """
        version, ciphertext = wrapped[:VERSION_BYTES].decode("ascii", "replace"), wrapped[VERSION_BYTES:]
        expect(self.kid, _VERSION.fullmatch(version) is not None, "no version of the key", opening=True)
        both = call_kms(
            self.kid,
            lambda: HiddenBytes(self._version(version).decrypt(ALGORITHM, ciphertext).plaintext),
            _classify,
            opening=True,
        )
        bound = len(both) == DIGEST_BYTES + KEY_BYTES and hmac.compare_digest(both[:DIGEST_BYTES], _digest(aad))
        expect(self.kid, bound, "wrapped for another row", opening=True)
        return HiddenBytes(both[DIGEST_BYTES:])

    def _version(self, version: str) -> Any:
        """Return a client for one version of the key, which shares the connections of the first one."""
        return self._client.get_cryptography_client(self._key, key_version=version)


def _digest(aad: bytes) -> bytes:
    return hashlib.sha256(aad).digest()


def _classify(error: Exception) -> ErrorClass:
    if isinstance(error, azure.ServiceRequestError | azure.ServiceResponseError):
        return ErrorClass.TRANSIENT
    if isinstance(error, azure.HttpResponseError):
        if error.status_code in TRANSIENT_STATUSES:
            return ErrorClass.TRANSIENT
        if error.status_code == 400:
            return ErrorClass.REFUSED
    return ErrorClass.UNAVAILABLE
