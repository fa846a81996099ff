"""The Transit engine of HashiCorp Vault and OpenBao; address and token come from ``VAULT_ADDR`` and ``VAULT_TOKEN``."""

from __future__ import annotations

import binascii
from functools import partial
from typing import Any, Final

import hvac
from hvac import exceptions as vault
from requests import exceptions as transport

from coderepos.crypto.message import WrapAlgorithm
from coderepos.crypto.providers.kms_call import CONNECT_SECONDS, READ_SECONDS, ErrorClass, call_kms, expect
from coderepos.hidden import HiddenBytes, HiddenText


def open_key(name: str) -> VaultKeyWrapper:
    """Return the wrapper of the key ``<mount>/<key>``."""
    return VaultKeyWrapper(name, hvac.Client(timeout=(CONNECT_SECONDS, READ_SECONDS)))


class VaultKeyWrapper:
    """Wraps data keys by encrypt and decrypt of an AEAD key, the AAD as associated data."""

    wrap_alg: Final = WrapAlgorithm.VAULT_TRANSIT

    def __init__(self, name: str, client: Any) -> None:
        self._mount, _, self._key = name.rpartition("/")
        self._transit = client.secrets.transit
        self.kid: Final = f"vault-transit://{name}"

    def wrap(self, dek: bytes, aad: bytes) -> bytes:
        """Return the encrypted DEK as Vault writes it, with the version of the key in front.

        :raises EncryptionUnavailable: the service is currently unavailable, or does not allow it.
        """
        operation = partial(
            self._transit.encrypt_data,
            name=self._key,
            plaintext=_base64(dek),
            associated_data=_base64(aad),
            mount_point=self._mount,
        )
        ciphertext = call_kms(self.kid, lambda: str(operation()["data"]["ciphertext"]), _classify)
        expect(self.kid, ciphertext.startswith("vault:v"), "the answer is not a ciphertext")
        return ciphertext.encode()

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Return the DEK.

        :raises EncryptionUnavailable: the service is currently unavailable, or does not allow it.
        :raises TokenUndecryptable: it was wrapped by another key or for another row, or changed.
        """
        expect(self.kid, wrapped.startswith(b"vault:v") and wrapped.isascii(), "not a Vault ciphertext", opening=True)
        operation = partial(
            self._transit.decrypt_data,
            name=self._key,
            ciphertext=wrapped.decode("ascii"),
            associated_data=_base64(aad),
            mount_point=self._mount,
        )
        return call_kms(
            self.kid,
            lambda: HiddenBytes(binascii.a2b_base64(operation()["data"]["plaintext"], strict_mode=True)),
            _classify,
            opening=True,
        )


def _base64(data: bytes) -> str:
    return HiddenText(binascii.b2a_base64(data, newline=False), encoding="ascii")


def _classify(error: Exception) -> ErrorClass:
    if isinstance(error, transport.ConnectionError | transport.Timeout):
        return ErrorClass.TRANSIENT
    if isinstance(error, vault.RateLimitExceeded | vault.InternalServerError | vault.BadGateway | vault.VaultDown):
        return ErrorClass.TRANSIENT
    if isinstance(error, vault.InvalidRequest):
        return ErrorClass.REFUSED
    return ErrorClass.UNAVAILABLE
