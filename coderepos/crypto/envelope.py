"""Envelope encryption of one secret per row, in the format of ``message``; knows no Django and reads no settings."""

from __future__ import annotations

import hmac
import os
from dataclasses import replace
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from coderepos.crypto.message import (
    KEY_BYTES,
    MAX_WRAPPED_BYTES,
    NONCE_BYTES,
    TAG_BYTES,
    Context,
    Envelope,
    WrapAlgorithm,
    pad,
    unpad,
)
from coderepos.exceptions import EncryptionUnavailable, TokenUndecryptable
from coderepos.hidden import HiddenBytes


class KeyWrapper(Protocol):
    """A key-encryption key (KEK): it wraps the data key (DEK) of a message."""

    @property
    def wrap_alg(self) -> WrapAlgorithm:
        """How the key wraps, byte 5 of a message."""

    @property
    def kid(self) -> str:
        """Name of the key; stored beside the message, and bound into the wrapped DEK."""

    def wrap(self, dek: bytes, aad: bytes) -> bytes:
        """Return the wrapped DEK.

        :raises EncryptionUnavailable: the key is currently unavailable.
        """

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Return the DEK.

        :raises EncryptionUnavailable: the key is currently unavailable.
        :raises TokenUndecryptable: the key refuses what it is given.
        """


class LocalKeyWrapper:
    """A master key of 32 bytes in the memory of this process; it is never used directly, only through HKDF."""

    wrap_alg: Final = WrapAlgorithm.LOCAL

    def __init__(self, master_key: bytes) -> None:
        master_key = HiddenBytes(master_key)
        if len(master_key) != KEY_BYTES:
            raise ValueError(f"A master key has {KEY_BYTES} bytes.")
        self.kid: Final = "local:" + _hkdf(master_key, None, b"coderepos/v1/kid", 16).hex()
        self._aead: Final = AESGCM(_hkdf(master_key, None, b"coderepos/v1/kek-wrap", KEY_BYTES))

    def wrap(self, dek: bytes, aad: bytes) -> bytes:
        """Return nonce, encrypted DEK and tag: 60 bytes."""
        return self._wrap_with(os.urandom(NONCE_BYTES), dek, aad)

    def _wrap_with(self, nonce: bytes, dek: bytes, aad: bytes) -> bytes:
        return nonce + self._aead.encrypt(nonce, dek, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Return the DEK.

        :raises TokenUndecryptable: it was wrapped by another key or for another row, or changed.
        """
        if len(wrapped) != NONCE_BYTES + KEY_BYTES + TAG_BYTES:
            raise TokenUndecryptable
        try:
            return HiddenBytes(self._aead.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], aad))
        except InvalidTag:
            raise TokenUndecryptable from None


# Below, everything that is or gives a key or a text hides itself in frames: see HiddenBytes.


def seal(plaintext: bytes, *, wrapper: KeyWrapper, context: Context) -> bytes:
    """Return ``plaintext`` sealed for ``context`` under a new data key, in the suite of the context.

    :raises EncryptionUnavailable: the wrapper is currently unavailable.
    """
    plaintext = HiddenBytes(plaintext)
    dek, message_id, nonce = HiddenBytes(os.urandom(KEY_BYTES)), os.urandom(32), os.urandom(NONCE_BYTES)
    return _seal_from_parts(plaintext, wrapper=wrapper, context=context, dek=dek, message_id=message_id, nonce=nonce)


def _seal_from_parts(
    plaintext: bytes, *, wrapper: KeyWrapper, context: Context, dek: bytes, message_id: bytes, nonce: bytes
) -> bytes:
    key, commitment = _keys(dek, message_id)
    draft = Envelope(
        suite=context.suite,
        wrap_alg=wrapper.wrap_alg,
        message_id=message_id,
        commitment=commitment,
        nonce=nonce,
        wrapped=b"",
        ciphertext=b"",
    )
    ciphertext = AESGCM(key).encrypt(nonce, pad(plaintext), draft.data_aad(context))
    return _with_wrapped(replace(draft, ciphertext=ciphertext), wrapper, dek, context).pack()


def open_sealed(sealed: bytes, *, wrapper: KeyWrapper, context: Context) -> bytes:
    """Return the plaintext of a message.

    :raises TokenUndecryptable: the message was changed, or belongs to another row, origin or key.
    :raises EncryptionUnavailable: the wrapper is currently unavailable.
    """
    envelope = Envelope.unpack(sealed)
    key = _unwrap(envelope, wrapper, context)[1]
    aad = envelope.data_aad(context)
    try:
        return unpad(HiddenBytes(AESGCM(key).decrypt(envelope.nonce, envelope.ciphertext, aad)))
    except InvalidTag:
        raise TokenUndecryptable from None


def rewrap(sealed: bytes, *, old: KeyWrapper, new: KeyWrapper, context: Context) -> bytes:
    """Return the message with its data key wrapped by ``new``; its data part stays identical to the byte.

    The origin of ``context`` plays no part in it.

    :raises TokenUndecryptable: ``old`` does not open it.
    :raises EncryptionUnavailable: a wrapper is currently unavailable.
    """
    envelope = Envelope.unpack(sealed)
    dek = _unwrap(envelope, old, context)[0]
    return _with_wrapped(envelope, new, dek, context).pack()


def renewed(sealed: bytes, *, old: KeyWrapper, new: KeyWrapper, context: Context) -> bytes:
    """Return the message under ``new`` in the suite of ``context``: wrapped anew, or sealed anew from an older suite.

    :raises TokenUndecryptable: ``old`` does not open it.
    :raises EncryptionUnavailable: a wrapper is currently unavailable.
    """
    if Envelope.unpack(sealed).suite >= context.suite:
        return rewrap(sealed, old=old, new=new, context=context)
    return seal(open_sealed(sealed, wrapper=old, context=context), wrapper=new, context=context)


def _with_wrapped(envelope: Envelope, wrapper: KeyWrapper, dek: bytes, context: Context) -> Envelope:
    wrapped = wrapper.wrap(dek, envelope.wrap_aad(wrapper.wrap_alg, wrapper.kid, context))
    if not 0 < len(wrapped) <= MAX_WRAPPED_BYTES:  # it could be stored, but never be read again
        raise EncryptionUnavailable
    return replace(envelope, wrap_alg=wrapper.wrap_alg, wrapped=wrapped)


def _unwrap(envelope: Envelope, wrapper: KeyWrapper, context: Context) -> tuple[bytes, bytes]:
    """Return the data key and the encryption key, once the commitment has proved that they belong to the message."""
    if envelope.wrap_alg != wrapper.wrap_alg:
        raise TokenUndecryptable
    dek = HiddenBytes(wrapper.unwrap(envelope.wrapped, envelope.wrap_aad(wrapper.wrap_alg, wrapper.kid, context)))
    if len(dek) != KEY_BYTES:
        raise TokenUndecryptable
    key, commitment = _keys(dek, envelope.message_id)
    if not hmac.compare_digest(commitment, envelope.commitment):
        raise TokenUndecryptable
    return dek, key


def _keys(dek: bytes, message_id: bytes) -> tuple[bytes, bytes]:
    """Return encryption key and commitment."""
    both = _hkdf(dek, message_id, b"coderepos/v1/dek", 64)
    return HiddenBytes(both[:32]), both[32:]


def _hkdf(key: bytes, salt: bytes | None, info: bytes, size: int) -> bytes:
    return HiddenBytes(HKDF(SHA256(), size, salt, info).derive(key))
