"""The keys of this installation: one primary that seals, any number that only open."""

from __future__ import annotations

import binascii
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from coderepos.conf import conf
from coderepos.crypto import envelope
from coderepos.crypto.envelope import KeyWrapper, LocalKeyWrapper
from coderepos.crypto.message import KEY_BYTES, Context
from coderepos.crypto.providers import missing_extra, open_key, split_key_id
from coderepos.exceptions import EncryptionUnavailable, TokenUndecryptable
from coderepos.hidden import HiddenBytes, HiddenText

PRINTED_KEYS: Final = frozenset({b"this-key-is-printed-in-the-docs!"})
"""Keys that stand in the documentation, so that everybody knows them."""

MAKE: Final = "Run: python manage.py coderepos_generate_key"
"""Hint that goes with every fault of a local key."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keyring:
    """Seals under the primary key and opens under any key it holds.

    Local keys are here from the start. A KMS is asked who it is when its key is needed, so that one which cannot be
    reached leaves the tokens under other keys readable.
    """

    local: dict[str, KeyWrapper] = field(repr=False)
    """Every local key by its kid."""

    kms_key_ids: tuple[str, ...]
    """Every KMS key by the URI in the settings, the primary one first."""

    primary_name: str | None
    """Kid of the local key that seals, or URI of the KMS key that does."""

    def require_primary(self) -> KeyWrapper:
        """Return the key that seals.

        :raises EncryptionUnavailable: the settings give none that can be used, or its KMS is currently unavailable.
        """
        if self.primary_name is None:
            logger.error("no key can seal; run the system checks")
            raise EncryptionUnavailable
        return self.local.get(self.primary_name) or _kms_wrapper(self.primary_name)

    def find(self, kid: str) -> KeyWrapper | None:
        """Return the key of that name; ``None`` where this installation has none.

        :raises EncryptionUnavailable: the key may be one of a KMS that is currently unavailable.
        """
        if kid in self.local:
            return self.local[kid]
        scheme = kid.partition("://")[0]
        unavailable = False
        for key_id in self.kms_key_ids:
            if split_key_id(key_id)[0] != scheme:
                continue
            try:
                wrapper = _kms_wrapper(key_id)
            except EncryptionUnavailable:
                unavailable = True
                continue
            if wrapper.kid == kid:
                return wrapper
        if unavailable:
            raise EncryptionUnavailable
        return None

    def require(self, kid: str) -> KeyWrapper:
        """Return the key of that name.

        :raises TokenUndecryptable: this installation has none.
        :raises EncryptionUnavailable: the key may be one of a KMS that is currently unavailable.
        """
        wrapper = self.find(kid)
        if wrapper is None:
            raise TokenUndecryptable
        return wrapper

    def seal(self, text: str, context: Context) -> tuple[bytes, str]:
        """Return a sealed text and the kid of the key that wrapped it.

        :raises EncryptionUnavailable: there is no usable key, or it is currently unavailable.
        """
        text = HiddenText(text)
        wrapper = self.require_primary()
        return envelope.seal(HiddenBytes(text.encode()), wrapper=wrapper, context=context), wrapper.kid

    def open(self, sealed: bytes, kid: str, context: Context) -> str:
        """Return the text of a message.

        :raises TokenUndecryptable: the key is unknown, or the message was changed or moved.
        :raises EncryptionUnavailable: the key is currently unavailable.
        """
        try:
            return HiddenText(
                envelope.open_sealed(sealed, wrapper=self.require(kid), context=context), encoding="utf-8"
            )
        except TokenUndecryptable:
            logger.error("cannot open %s of %s %s under key %s", context.field, context.table, context.row_id, kid)
            raise


def keyring() -> Keyring:
    """Return the keyring that the settings describe right now; wrappers are cached by the settings' values."""
    return _keyring(
        HiddenText(conf.MASTER_ENCRYPTION_KEY) if conf.MASTER_ENCRYPTION_KEY else None,
        tuple(map(HiddenText, conf.DECRYPT_ONLY_MASTER_KEYS)),
        conf.KMS_KEY_ID,
        tuple(conf.DECRYPT_ONLY_KMS_KEY_IDS),
        conf.PRIMARY_KEY,
    )


@lru_cache(maxsize=8)
def _keyring(
    master_key: str | None,
    further_keys: tuple[str, ...],
    kms_key_id: str | None,
    further_kms_key_ids: tuple[str, ...],
    primary: str | None,
) -> Keyring:
    try:
        sealing = LocalKeyWrapper(decode_key(master_key)) if master_key else None
        wrappers = [LocalKeyWrapper(decode_key(key)) for key in further_keys] + ([sealing] if sealing else [])
        kms_key_ids = (*((kms_key_id,) if kms_key_id else ()), *further_kms_key_ids)
        for key_id in kms_key_ids:
            split_key_id(key_id)
    except ValueError as error:
        logger.error("the keys in the settings cannot be used: %s", error)
        unusable = True
    else:
        unusable = False
    if unusable:
        raise EncryptionUnavailable
    names = {"local": sealing.kid if sealing else None, "kms": kms_key_id}
    given = [name for name in names.values() if name]
    return Keyring(
        local={wrapper.kid: wrapper for wrapper in wrappers},
        kms_key_ids=kms_key_ids,
        primary_name=names.get(primary) if primary else (given[0] if len(given) == 1 else None),
    )


@lru_cache(maxsize=16)
def _kms_wrapper(key_id: str) -> KeyWrapper:
    return open_key(key_id)


os.register_at_fork(after_in_child=_kms_wrapper.cache_clear)  # two processes cannot share one connection


def decode_key(text: str) -> bytes:
    """Return the 32 bytes of a master key.

    :raises ValueError: the text is not strict base64 of exactly 32 bytes; the message holds none of it.
    """
    text = HiddenText(text)
    try:
        key = HiddenBytes(binascii.a2b_base64(text, strict_mode=True))
    except ValueError:
        raise ValueError("A master key must be base64.") from None
    if (
        binascii.b2a_base64(key, newline=False).decode() != text
    ):  # the last digit of base64 leaves bits over, which must be zero
        raise ValueError("A master key must be base64.")
    if len(key) != KEY_BYTES:
        raise ValueError(f"A master key must have {KEY_BYTES} bytes.")
    return key


def problems() -> Iterator[tuple[int, str, str]]:
    """Yield number, message and hint of everything that is wrong with the keys in the settings."""
    if not conf.MASTER_ENCRYPTION_KEY and not conf.KMS_KEY_ID:
        yield 0, "There is no key: no access token can be stored.", f"Set MASTER_ENCRYPTION_KEY or KMS_KEY_ID. {MAKE}"
    yield from _problems_of_master_keys()
    yield from _problems_of_kms_keys()
    given = {"local": bool(conf.MASTER_ENCRYPTION_KEY), "kms": bool(conf.KMS_KEY_ID)}
    if conf.PRIMARY_KEY and not given.get(str(conf.PRIMARY_KEY)):
        yield 8, "PRIMARY_KEY names a key that is not given.", "Set it to 'local' or 'kms', and give that key."
    elif all(given.values()) and not conf.PRIMARY_KEY:
        yield 5, "A local key and a KMS are given without PRIMARY_KEY.", "Set PRIMARY_KEY to 'local' or 'kms'."


def _problems_of_master_keys() -> Iterator[tuple[int, str, str]]:
    seen: set[bytes] = set()
    for name, text in _given("MASTER_ENCRYPTION_KEY", "DECRYPT_ONLY_MASTER_KEYS"):
        try:
            key = decode_key(text)
        except ValueError as error:
            yield 1, f"{name}: {error}", MAKE
            continue
        if len(set(key)) == 1:
            yield 2, f"{name}: all bytes of a key are equal.", MAKE
        elif key in PRINTED_KEYS:
            yield 3, f"{name}: this key is printed in the documentation.", MAKE
        if key in seen:
            yield 4, f"{name}: the same key is given twice.", "Remove one of them."
        seen.add(key)


def _problems_of_kms_keys() -> Iterator[tuple[int, str, str]]:
    seen: set[tuple[str, str]] = set()
    for name, key_id in _given("KMS_KEY_ID", "DECRYPT_ONLY_KMS_KEY_IDS"):
        try:
            parts, extra = split_key_id(key_id), missing_extra(key_id)
        except ValueError as error:
            yield 6, f"{name}: {error}", "Copy the key's name from the service, without a version."
            continue
        if extra:
            yield 7, f"{name}: the client library of this service is missing.", f"Install coderepos[{extra}]."
        if parts in seen:
            yield 4, f"{name}: the same key is given twice.", "Remove one of them."
        seen.add(parts)


def _given(single: str, several: str) -> Iterator[tuple[str, str]]:
    """Yield the settings' name and value of a key and of the decrypt-only keys beside it."""
    if getattr(conf, single):
        yield single, HiddenText(getattr(conf, single))
    for value in map(HiddenText, getattr(conf, several)):
        yield several, value
