"""Envelope encryption of one secret per row: the format ``CRE1``; knows no Django and reads no settings."""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import dataclass, replace
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from coderepos.exceptions import EncryptionUnavailable, TokenUndecryptable
from coderepos.hidden import HiddenBytes

MAGIC: Final = b"CRE1"
SUITE_UNBOUND: Final = 1
"""Bound to table, field, row and project."""

SUITE_ORIGIN: Final = 2
"""Bound to the origin that the secret may be sent to as well."""

WRAP_LOCAL: Final = 1
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
MAX_WRAPPED_BYTES: Final = 4096
PAD_BYTES: Final = 256


class KeyWrapper(Protocol):
    """A key-encryption key (KEK): it wraps the data key (DEK) of a message."""

    @property
    def wrap_alg(self) -> int:
        """Number of the wrap algorithm, byte 5 of a message."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Where a message belongs: it opens nowhere else."""

    table: str
    field: str
    row_id: str
    project_id: str
    origin: str | None = None
    """Scheme, host and port that the secret may be sent to; ``None`` where it belongs to no host (suite 1)."""

    @property
    def suite(self) -> int:
        """Suite that a message for this context is sealed in."""
        return SUITE_UNBOUND if self.origin is None else SUITE_ORIGIN

    def encode(self) -> bytes:
        """Return the context as length-prefixed parts, without the origin: only the data is bound to that."""
        parts = ("coderepos/v1", self.table, self.field, self.row_id, self.project_id)
        return _length_prefixed(*(part.encode() for part in parts))


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """One sealed message in format ``CRE1``; numbers are big-endian.

    ====== ====== ==========================================================================================
    offset size   field
    ====== ====== ==========================================================================================
    0      4      magic ``CRE1``
    4      1      suite: 1 = HKDF-SHA256 + AES-256-GCM with key commitment; 2 = the same, bound to an origin
    5      1      wrap algorithm: 1 local, 2 AWS KMS, 3 Google Cloud KMS, 4 Azure Key Vault, 5 Vault Transit
    6      32     message id, random; HKDF salt
    38     32     key commitment: second half of HKDF-SHA256(DEK, salt = message id, ``coderepos/v1/dek``, 64)
    70     12     data nonce, random
    82     2      length W of the wrapped DEK, at most 4096
    84     W      wrapped DEK; local: nonce 12, AES-256-GCM of the DEK 32, tag 16
    84+W   n+16   AES-256-GCM of the padded text under the first half of the HKDF output, tag 16
    ====== ====== ==========================================================================================

    Padded text: 2-byte length, text, zeros up to a multiple of 256. Changing anything is a new suite number.

    Each part that the data is authenticated with has its 4-byte length before it: ``data``, magic, suite, message id,
    commitment, context, and in suite 2 the origin, such as ``https://github.com:443``. What the wrapped DEK is
    authenticated with names no origin, so that keys can be rotated whatever has become of a row's URL.
    """

    suite: int
    wrap_alg: int
    message_id: bytes
    commitment: bytes
    nonce: bytes
    wrapped: bytes
    ciphertext: bytes

    def pack(self) -> bytes:
        """Return the bytes that are stored."""
        head = struct.pack(
            ">4sBB32s32s12sH",
            MAGIC,
            self.suite,
            self.wrap_alg,
            self.message_id,
            self.commitment,
            self.nonce,
            len(self.wrapped),
        )
        return head + self.wrapped + self.ciphertext

    @classmethod
    def unpack(cls, sealed: bytes) -> Envelope:
        """Return the parts of stored bytes.

        :raises TokenUndecryptable: the bytes are no message of this format.
        """
        try:
            magic, suite, wrap_alg, message_id, commitment, nonce, size = _HEAD.unpack_from(sealed)
        except struct.error:
            raise TokenUndecryptable from None
        wrapped = sealed[_HEAD.size : _HEAD.size + size]
        ciphertext = sealed[_HEAD.size + size :]
        padded_bytes = len(ciphertext) - TAG_BYTES
        if (
            magic != MAGIC
            or suite not in (SUITE_UNBOUND, SUITE_ORIGIN)
            or not 0 < size <= MAX_WRAPPED_BYTES
            or len(wrapped) != size
            or padded_bytes < PAD_BYTES
            or padded_bytes % PAD_BYTES
        ):
            raise TokenUndecryptable
        return cls(
            suite=suite,
            wrap_alg=wrap_alg,
            message_id=message_id,
            commitment=commitment,
            nonce=nonce,
            wrapped=wrapped,
            ciphertext=ciphertext,
        )

    def wrap_aad(self, wrapper: KeyWrapper, context: Context) -> bytes:
        """Return what the wrapped DEK is bound to."""
        return _length_prefixed(
            b"wrap",
            MAGIC,
            bytes([self.suite]),
            bytes([wrapper.wrap_alg]),
            self.message_id,
            self.commitment,
            context.encode(),
            wrapper.kid.encode(),
        )

    def data_aad(self, context: Context) -> bytes:
        """Return what the text is bound to.

        :raises TokenUndecryptable: the message is bound to an origin, and ``context`` has none.
        """
        parts = b"data", MAGIC, bytes([self.suite]), self.message_id, self.commitment, context.encode()
        if self.suite == SUITE_UNBOUND:
            return _length_prefixed(*parts)
        if context.origin is None:
            raise TokenUndecryptable
        return _length_prefixed(*parts, context.origin.encode())


_HEAD: Final = struct.Struct(">4sBB32s32s12sH")


class LocalKeyWrapper:
    """A master key of 32 bytes in the memory of this process; it is never used directly, only through HKDF."""

    wrap_alg: Final = WRAP_LOCAL

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
    ciphertext = AESGCM(key).encrypt(nonce, _pad(plaintext), draft.data_aad(context))
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
        return _unpad(HiddenBytes(AESGCM(key).decrypt(envelope.nonce, envelope.ciphertext, aad)))
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
    wrapped = wrapper.wrap(dek, envelope.wrap_aad(wrapper, context))
    if not 0 < len(wrapped) <= MAX_WRAPPED_BYTES:  # it could be stored, but never be read again
        raise EncryptionUnavailable
    return replace(envelope, wrap_alg=wrapper.wrap_alg, wrapped=wrapped)


def _unwrap(envelope: Envelope, wrapper: KeyWrapper, context: Context) -> tuple[bytes, bytes]:
    """Return the data key and the encryption key, once the commitment has proved that they belong to the message."""
    if envelope.wrap_alg != wrapper.wrap_alg:
        raise TokenUndecryptable
    dek = HiddenBytes(wrapper.unwrap(envelope.wrapped, envelope.wrap_aad(wrapper, context)))
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


def _length_prefixed(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _pad(text: bytes) -> bytes:
    """Hide the length: 2-byte length, text, zeros up to a multiple of 256."""
    size = struct.calcsize(">H") + len(text)
    return HiddenBytes(struct.pack(">H", len(text)) + text + bytes(-size % PAD_BYTES))


def _unpad(padded: bytes) -> bytes:
    (size,) = struct.unpack_from(">H", padded)
    if 2 + size > len(padded) or any(padded[2 + size :]) or len(padded) != 2 + size + -(2 + size) % PAD_BYTES:
        raise TokenUndecryptable
    return HiddenBytes(padded[2 : 2 + size])
