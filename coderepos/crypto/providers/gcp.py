"""Google Cloud Key Management Service, over REST: gRPC does not survive the fork of a worker."""

from __future__ import annotations

from typing import Any, Final

from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud.kms_v1 import KeyManagementServiceClient
from requests import exceptions as transport

from coderepos.crypto.message import WrapAlgorithm
from coderepos.crypto.providers.kms_call import READ_SECONDS, ErrorClass, call_kms, expect
from coderepos.hidden import HiddenBytes

TRANSIENT_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})


def open_key(name: str) -> GcpKeyWrapper:
    """Return the wrapper of the key with this resource name; credentials are the application default ones.

    :raises EncryptionUnavailable: there are no credentials.
    """
    client = call_kms(f"gcp-kms://{name}", lambda: KeyManagementServiceClient(transport="rest"), _classify)
    return GcpKeyWrapper(name, client)


class GcpKeyWrapper:
    """Wraps data keys by Encrypt and Decrypt of a symmetric key, the AAD as additional authenticated data."""

    wrap_alg: Final = WrapAlgorithm.GCP_KMS

    def __init__(self, name: str, client: Any) -> None:
        self._client = client
        self._name: Final = name
        self.kid: Final = f"gcp-kms://{name}"

    def wrap(self, dek: bytes, aad: bytes) -> bytes:
        """Return the encrypted DEK.

        :raises EncryptionUnavailable: the service is currently unavailable, or does not allow it.
        """
        request = {
            "name": self._name,
            "plaintext": dek,
            "additional_authenticated_data": aad,
            "plaintext_crc32c": crc32c(dek),
            "additional_authenticated_data_crc32c": crc32c(aad),
        }
        answer = call_kms(
            self.kid, lambda: self._client.encrypt(request=request, timeout=READ_SECONDS, retry=None), _classify
        )
        expect(self.kid, answer.name.startswith(f"{self._name}/cryptoKeyVersions/"), "another key answered")
        arrived = answer.verified_plaintext_crc32c and answer.verified_additional_authenticated_data_crc32c
        whole = answer.ciphertext_crc32c == crc32c(answer.ciphertext)
        expect(self.kid, arrived and whole, "the request or the answer was damaged on its way")
        return bytes(answer.ciphertext)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Return the DEK; Google picks the version of the key by the bytes themselves.

        :raises EncryptionUnavailable: the service is currently unavailable, or does not allow it.
        :raises TokenUndecryptable: it was wrapped by another key or for another row, or changed.
        """
        request = {"name": self._name, "ciphertext": wrapped, "additional_authenticated_data": aad}
        return call_kms(
            self.kid,
            lambda: HiddenBytes(self._client.decrypt(request=request, timeout=READ_SECONDS, retry=None).plaintext),
            _classify,
            opening=True,
        )


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (RFC 3720, appendix B.4) by which Google detects damage on the way."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _classify(error: Exception) -> ErrorClass:
    if isinstance(error, transport.ConnectionError | transport.Timeout | auth.TransportError | api.RetryError):
        return ErrorClass.TRANSIENT
    if isinstance(error, api.GoogleAPICallError):
        if error.code in TRANSIENT_STATUSES:
            return ErrorClass.TRANSIENT
        if _status(error) == "INVALID_ARGUMENT":
            return ErrorClass.REFUSED
    return ErrorClass.UNAVAILABLE


def _status(error: api.GoogleAPICallError) -> str:
    """Return Google's own name of an error: a disabled key and a false ciphertext are both HTTP status 400."""
    try:
        return str(error.response.json()["error"]["status"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""
