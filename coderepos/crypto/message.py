"""The format ``CRE1``: the parts of a sealed message and what each is bound to; knows no cryptography."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from coderepos.exceptions import TokenUndecryptable
from coderepos.hidden import HiddenBytes

MAGIC: Final = b"CRE1"
SUITE_UNBOUND: Final = 1
"""Bound to table, field, row and project."""

SUITE_ORIGIN: Final = 2
"""Bound to the origin that the secret may be sent to as well."""

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
MAX_WRAPPED_BYTES: Final = 4096
PAD_BYTES: Final = 256
_HEAD: Final = struct.Struct(">4sBB32s32s12sH")


class WrapAlgorithm(enum.IntEnum):
    """How the data key of a message is wrapped: byte 5 of the message, so that no number ever changes its meaning."""

    LOCAL = 1
    AWS_KMS = 2
    GCP_KMS = 3
    AZURE_KEY_VAULT = 4
    VAULT_TRANSIT = 5


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
    5      1      wrap algorithm, see :class:`WrapAlgorithm`
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
        head = _HEAD.pack(
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

        :raises TokenUndecryptable: the bytes are not a message of this format.
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

    def wrap_aad(self, wrap_alg: int, kid: str, context: Context) -> bytes:
        """Return what the wrapped DEK is bound to, under the key ``kid``."""
        return _length_prefixed(
            b"wrap",
            MAGIC,
            bytes([self.suite]),
            bytes([wrap_alg]),
            self.message_id,
            self.commitment,
            context.encode(),
            kid.encode(),
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


def pad(text: bytes) -> bytes:
    """Return the text with its 2-byte length before it and zeros up to a multiple of 256, which hide its length."""
    size = struct.calcsize(">H") + len(text)
    return HiddenBytes(struct.pack(">H", len(text)) + text + bytes(-size % PAD_BYTES))


def unpad(padded: bytes) -> bytes:
    """Return the text without its padding.

    :raises TokenUndecryptable: the padding is not the one that :func:`pad` makes.
    """
    (size,) = struct.unpack_from(">H", padded)
    if 2 + size > len(padded) or any(padded[2 + size :]) or len(padded) != 2 + size + -(2 + size) % PAD_BYTES:
        raise TokenUndecryptable
    return HiddenBytes(padded[2 : 2 + size])


def _length_prefixed(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)
