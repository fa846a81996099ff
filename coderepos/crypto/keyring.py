"""The keys of this installation: one primary that seals, any number that only open."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from coderepos.conf import conf
from coderepos.crypto import envelope
from coderepos.crypto.envelope import Context, KeyWrapper, LocalKeyWrapper
from coderepos.exceptions import EncryptionUnavailable, TokenUndecryptable

PRINTED_KEYS: Final = frozenset({b"this-key-is-printed-in-the-docs!"})
"""Keys that stand in the documentation, so that everybody knows them."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keyring:
    """Seals under the primary key and opens under any key it holds."""

    primary: KeyWrapper | None
    wrappers: dict[str, KeyWrapper]
    """Every key by its kid, the primary among them."""

    def require_primary(self) -> KeyWrapper:
        """Return the key that seals.

        :raises EncryptionUnavailable: the settings give none that can be used.
        """
        if self.primary is None:
            raise EncryptionUnavailable
        return self.primary

    def seal(self, text: str, context: Context) -> tuple[bytes, str]:
        """Return a sealed text and the kid of the key that wrapped it.

        :raises EncryptionUnavailable: there is no usable key, or it cannot be asked right now.
        """
        wrapper = self.require_primary()
        return envelope.seal(text.encode(), wrapper=wrapper, context=context), wrapper.kid

    def open(self, sealed: bytes, kid: str, context: Context) -> str:
        """Return the text of a message.

        :raises TokenUndecryptable: the key is unknown, or the message was changed or moved.
        :raises EncryptionUnavailable: the key cannot be asked right now.
        """
        try:
            wrapper = self.wrappers.get(kid)
            if wrapper is None:
                raise TokenUndecryptable
            return envelope.open_sealed(sealed, wrapper=wrapper, context=context).decode()
        except TokenUndecryptable:
            logger.error("cannot open %s of %s %s under key %s", context.field, context.table, context.row_id, kid)
            raise


def keyring() -> Keyring:
    """Return the keyring that the settings describe right now; wrappers are cached by the settings' values."""
    return _keyring(
        conf.MASTER_ENCRYPTION_KEY,
        tuple(conf.DECRYPT_ONLY_MASTER_KEYS),
        conf.KMS_KEY_ID,
        tuple(conf.DECRYPT_ONLY_KMS_KEY_IDS),
        conf.PRIMARY_KEY,
    )


@lru_cache(maxsize=8)
def _keyring(
    master_key: str | None,
    further_keys: Sequence[str],
    kms_key_id: str | None,
    further_kms_key_ids: Sequence[str],
    primary: str | None,
) -> Keyring:
    if kms_key_id or further_kms_key_ids:
        logger.error("KMS_KEY_ID is set, but no KMS provider is installed")
        raise EncryptionUnavailable
    try:
        local = LocalKeyWrapper(decode_key(master_key)) if master_key else None
        further = [LocalKeyWrapper(decode_key(key)) for key in further_keys]
    except ValueError:
        logger.error("a master key is not base64 of 32 bytes; run the system checks")
        raise EncryptionUnavailable from None
    wrappers = {wrapper.kid: wrapper for wrapper in (*further, *([local] if local else []))}
    return Keyring(primary=local, wrappers=dict(wrappers))


def decode_key(text: str) -> bytes:
    """Return the 32 bytes of a master key.

    :raises ValueError: the text is not strict base64 of exactly 32 bytes; the message holds none of it.
    """
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("A master key must be base64.") from None
    if len(key) != envelope.KEY_BYTES:
        raise ValueError(f"A master key must have {envelope.KEY_BYTES} bytes.")
    return key


def problems() -> Iterator[tuple[int, str, str]]:
    """Yield number, message and hint of everything that is wrong with the keys in the settings."""
    make = "Run: python -c 'import base64, os; print(base64.b64encode(os.urandom(32)).decode())'"
    if not conf.MASTER_ENCRYPTION_KEY and not conf.KMS_KEY_ID:
        yield 0, "There is no key: no access token can be stored.", f"Set MASTER_ENCRYPTION_KEY. {make}"
    seen: set[bytes] = set()
    for name, texts in (
        ("MASTER_ENCRYPTION_KEY", [conf.MASTER_ENCRYPTION_KEY] if conf.MASTER_ENCRYPTION_KEY else []),
        ("DECRYPT_ONLY_MASTER_KEYS", conf.DECRYPT_ONLY_MASTER_KEYS),
    ):
        for text in texts:
            try:
                key = decode_key(text)
            except ValueError as error:
                yield 1, f"{name}: {error}", make
                continue
            if len(set(key)) == 1:
                yield 2, f"{name}: all bytes of a key are equal.", make
            elif key in PRINTED_KEYS:
                yield 3, f"{name}: this key is printed in the documentation.", make
            if key in seen:
                yield 4, f"{name}: the same key is given twice.", "Remove one of them."
            seen.add(key)
    if conf.MASTER_ENCRYPTION_KEY and conf.KMS_KEY_ID and conf.PRIMARY_KEY not in ("local", "kms"):
        yield 5, "A local key and a KMS are given without PRIMARY_KEY.", "Set PRIMARY_KEY to 'local' or 'kms'."
