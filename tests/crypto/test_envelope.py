"""The envelope: what is sealed for one row opens there, unchanged, or not at all."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderepos.crypto import envelope
from coderepos.crypto.envelope import LocalKeyWrapper
from coderepos.crypto.message import Context, Envelope, WrapAlgorithm
from coderepos.exceptions import EncryptionUnavailable, TokenUndecryptable

MASTER_KEY = bytes(range(32))
WRAPPER = LocalKeyWrapper(MASTER_KEY)
OTHER_WRAPPER = LocalKeyWrapper(bytes(range(1, 33)))
HERE = Context(table="code_repos", field="token_ciphertext", row_id="row-1", project_id="project-1")
TOKEN = b"ghp_1234567890abcdef"
WRAPPED_AT, DATA_AT = 84, 84 + 60


def seal(text: bytes = TOKEN, context: Context = HERE, wrapper: LocalKeyWrapper = WRAPPER) -> bytes:
    """Seal with the keys and the row of this file."""
    return envelope.seal(text, wrapper=wrapper, context=context)


def opened(sealed: bytes, context: Context = HERE, wrapper: LocalKeyWrapper = WRAPPER) -> bytes:
    """Open with the keys and the row of this file."""
    return envelope.open_sealed(sealed, wrapper=wrapper, context=context)


@given(st.text(max_size=4096).map(str.encode).filter(lambda text: len(text) <= 4096))
def test_what_was_sealed_opens(text: bytes) -> None:
    """Any text up to the longest token comes back as it was."""
    assert opened(seal(text)) == text


def test_a_message_is_what_the_format_says() -> None:
    """Read by hand with struct: magic, suite, algorithm, sizes and offsets."""
    sealed = seal()

    magic, suite, wrap_alg = struct.unpack_from(">4sBB", sealed)
    (wrapped_size,) = struct.unpack_from(">H", sealed, 82)
    assert (magic, suite, wrap_alg, wrapped_size) == (b"CRE1", 1, 1, 12 + 32 + 16)
    assert len(sealed) == 84 + 60 + 256 + 16
    parts = Envelope.unpack(sealed)
    assert parts.message_id == sealed[6:38]
    assert parts.commitment == sealed[38:70]
    assert parts.nonce == sealed[70:82]
    assert parts.wrapped == sealed[84:144]
    assert parts.ciphertext == sealed[144:]
    assert parts.pack() == sealed


@pytest.mark.parametrize(("size", "blocks"), [(0, 1), (254, 1), (255, 2), (510, 2), (511, 3), (4096, 17)])
def test_padding_hides_the_length(size: int, blocks: int) -> None:
    """Two bytes of length and zeros fill whole blocks of 256: an empty token looks like any other."""
    assert len(seal(b"t" * size)) == DATA_AT + blocks * 256 + 16


def test_every_flipped_bit_is_refused() -> None:
    """No bit of a message can change unnoticed, those of the header included."""
    sealed = seal()

    for position in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(TokenUndecryptable):
            opened(bytes(changed))


def test_every_truncation_and_extension_is_refused() -> None:
    """A message is whole or refused, and nothing may follow it."""
    sealed = seal()

    for size in range(len(sealed)):
        with pytest.raises(TokenUndecryptable):
            opened(sealed[:size])
    for more in (b"\0", b"\0" * 256, sealed):
        with pytest.raises(TokenUndecryptable):
            opened(sealed + more)


@pytest.mark.parametrize("part", ["table", "field", "row_id", "project_id"])
def test_a_message_opens_in_its_own_place_alone(part: str) -> None:
    """Another table, field, row or project refuses it."""
    sealed = seal()

    with pytest.raises(TokenUndecryptable):
        opened(sealed, dataclasses.replace(HERE, **{part: "another"}))


BOUND = dataclasses.replace(HERE, origin="https://github.com:443")


def test_a_message_with_an_origin_is_one_of_suite_2() -> None:
    """The place says which suite is written; each opens what it sealed."""
    assert [seal(context=place)[4] for place in (HERE, BOUND)] == [1, 2]
    assert opened(seal(context=BOUND), BOUND) == TOKEN


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "",
        "https://github.com:444",
        "http://github.com:443",
        "https://github.com",
        "https://github.com:4430",
        "https://gitlab.com:443",
    ],
)
def test_a_message_with_an_origin_opens_for_no_other(origin: str | None) -> None:
    """Scheme, host and port are all bound, and leaving the origin out opens nothing."""
    with pytest.raises(TokenUndecryptable):
        opened(seal(context=BOUND), dataclasses.replace(HERE, origin=origin))


@pytest.mark.parametrize("suite", [0, 1, 3, 255])
def test_a_message_is_not_talked_down_to_another_suite(suite: int) -> None:
    """The number of the suite is authenticated: an older, weaker one cannot be written over it."""
    sealed = seal(context=BOUND)

    for place in (HERE, BOUND):
        with pytest.raises(TokenUndecryptable):
            opened(sealed[:4] + bytes([suite]) + sealed[5:], place)


def test_every_flipped_bit_of_suite_2_is_refused() -> None:
    """As in suite 1."""
    sealed = seal(context=BOUND)

    for position in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(TokenUndecryptable):
            opened(bytes(changed), BOUND)


def test_suite_1_stays_readable_and_is_renewed_as_suite_2() -> None:
    """What an earlier release sealed opens where the row has an origin by now; renewed, it is bound to that."""
    old = seal()

    new = envelope.renewed(old, old=WRAPPER, new=OTHER_WRAPPER, context=BOUND)

    assert opened(old, BOUND) == TOKEN
    assert (new[4], opened(new, BOUND, OTHER_WRAPPER)) == (2, TOKEN)
    again = envelope.renewed(new, old=OTHER_WRAPPER, new=WRAPPER, context=dataclasses.replace(BOUND, origin="x"))
    assert Envelope.unpack(again).ciphertext == Envelope.unpack(new).ciphertext
    assert opened(again, BOUND) == TOKEN


def test_parts_of_a_place_do_not_run_into_each_other() -> None:
    """Length prefixes keep ``ab`` + ``c`` apart from ``a`` + ``bc``."""
    sealed = seal(context=Context(table="ab", field="c", row_id="d", project_id="e"))

    with pytest.raises(TokenUndecryptable):
        opened(sealed, Context(table="a", field="bc", row_id="d", project_id="e"))


def test_another_key_is_refused() -> None:
    """Only the key that wrapped the data key opens it."""
    with pytest.raises(TokenUndecryptable):
        opened(seal(), wrapper=OTHER_WRAPPER)


def test_a_key_under_a_false_name_is_refused() -> None:
    """The kid is bound into the wrapped data key: right bytes under another name open nothing."""
    renamed = LocalKeyWrapper(MASTER_KEY)
    renamed.kid = "local:" + "0" * 32  # type: ignore[misc]  # what a manipulated keyring would do

    with pytest.raises(TokenUndecryptable):
        opened(seal(), wrapper=renamed)


def cut(message: bytes) -> tuple[bytes, bytes, bytes]:
    """Header, wrapped data key and data part of a message."""
    return message[:WRAPPED_AT], message[WRAPPED_AT:DATA_AT], message[DATA_AT:]


@pytest.mark.parametrize("elsewhere", [HERE, dataclasses.replace(HERE, row_id="row-2")])
@pytest.mark.parametrize(
    "mix",
    [
        lambda mine, other: mine[0] + other[1] + mine[2],
        lambda mine, other: mine[0] + mine[1] + other[2],
        lambda mine, other: other[0] + mine[1] + mine[2],
        lambda mine, other: mine[0] + other[1] + other[2],
        lambda mine, other: mine[0][:6] + other[0][6:38] + mine[0][38:] + mine[1] + mine[2],
        lambda mine, other: mine[0][:38] + other[0][38:70] + mine[0][70:] + mine[1] + mine[2],
        lambda mine, other: mine[0][:70] + other[0][70:] + mine[1] + mine[2],
    ],
    ids=["wrapped key", "data", "header", "both", "message id", "commitment", "nonce"],
)
def test_parts_of_two_messages_do_not_mix(
    mix: Callable[[tuple[bytes, bytes, bytes], tuple[bytes, bytes, bytes]], bytes], elsewhere: Context
) -> None:
    """No part of another message fits, whether of the same row or of another one."""
    with pytest.raises(TokenUndecryptable):
        opened(mix(cut(seal()), cut(seal(context=elsewhere))))


def test_two_seals_share_nothing_but_the_fixed_bytes() -> None:
    """Two messages of one token in one row have no 8 bytes in common after magic, suite and algorithm."""
    first, second = seal(), seal()

    windows = {first[at : at + 8] for at in range(6, len(first) - 7)}
    assert not windows & {second[at : at + 8] for at in range(6, len(second) - 7)}


def test_ids_and_nonces_never_repeat() -> None:
    """A hundred thousand messages have as many ids, data nonces and wrap nonces.

    Wrap nonces are 96 random bits under one key, for which NIST SP 800-38D allows 2^32 messages; a data nonce has
    a data key of its own.
    """
    ids, nonces, wrap_nonces = set(), set(), set()
    for _ in range(100_000):
        sealed = seal(b"")
        ids.add(sealed[6:38])
        nonces.add(sealed[70:82])
        wrap_nonces.add(sealed[84:96])

    assert len(ids) == len(nonces) == len(wrap_nonces) == 100_000


def test_randomness_is_the_operating_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data key, message id, data nonce and wrap nonce come from the system's generator: 32, 32, 12 and 12 bytes."""
    drawn: list[int] = []
    urandom = os.urandom

    def draw(size: int) -> bytes:
        drawn.append(size)
        return urandom(size)

    monkeypatch.setattr("os.urandom", draw)
    seal()

    assert sorted(drawn) == [12, 12, 32, 32]


def test_a_failing_generator_stops_the_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without randomness there is no message, rather than a weak one."""

    def fail(size: int) -> bytes:
        raise NotImplementedError("no randomness source")

    monkeypatch.setattr("os.urandom", fail)
    with pytest.raises(NotImplementedError):
        seal()


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_master_key_has_32_bytes(size: int) -> None:
    """Anything else is refused, without a byte of it in the message."""
    with pytest.raises(ValueError, match=r"\AA master key has 32 bytes\.\Z"):
        LocalKeyWrapper(b"k" * size)


def test_the_kid_tells_keys_apart_and_nothing_of_them() -> None:
    """A kid is ``local:`` and 32 hex digits, which another key does not get."""
    assert WRAPPER.kid != OTHER_WRAPPER.kid
    assert WRAPPER.kid == LocalKeyWrapper(MASTER_KEY).kid
    prefix, _, digits = WRAPPER.kid.partition(":")
    assert prefix == "local"
    assert len(bytes.fromhex(digits)) == 16
    assert MASTER_KEY.hex()[:16] not in digits


class Broken(LocalKeyWrapper):
    """A key whose unwrap answers as it is told."""

    answer = b""

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Return the answer."""
        return self.answer


@pytest.mark.parametrize("answer", [b"", b"k" * 16, b"k" * 31, b"k" * 33, b"k" * 32])
def test_a_wrong_data_key_is_noticed_before_it_is_used(answer: bytes) -> None:
    """A data key of another size, or one that the commitment does not fit, opens nothing."""
    broken = Broken(MASTER_KEY)
    broken.answer = answer

    with pytest.raises(TokenUndecryptable):
        opened(seal(), wrapper=broken)


def test_the_commitment_alone_refuses_a_second_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A false data key is refused before any cipher is asked: AES-GCM itself does not commit to its key."""
    sealed, broken = seal(), Broken(MASTER_KEY)
    broken.answer = b"k" * 32
    monkeypatch.setattr(envelope, "AESGCM", lambda key: pytest.fail("the cipher was asked"))

    with pytest.raises(TokenUndecryptable):
        opened(sealed, wrapper=broken)


def test_rewrapping_changes_the_wrapped_key_alone() -> None:
    """A rotation leaves everything but the wrapped data key identical to the byte, and opens under the new key only."""
    before = seal()

    after = envelope.rewrap(before, old=WRAPPER, new=OTHER_WRAPPER, context=HERE)

    assert cut(after)[0] == cut(before)[0]
    assert cut(after)[1] != cut(before)[1]
    assert cut(after)[2] == cut(before)[2]
    assert opened(after, wrapper=OTHER_WRAPPER) == TOKEN
    with pytest.raises(TokenUndecryptable):
        opened(after)


def test_rewrapping_refuses_what_does_not_open() -> None:
    """A moved message is not rewrapped into one that would look right."""
    with pytest.raises(TokenUndecryptable):
        envelope.rewrap(seal(), old=OTHER_WRAPPER, new=WRAPPER, context=HERE)
    with pytest.raises(TokenUndecryptable):
        envelope.rewrap(seal(), old=WRAPPER, new=OTHER_WRAPPER, context=dataclasses.replace(HERE, row_id="row-2"))


class Wide(LocalKeyWrapper):
    """A key whose wrapped form is as long as it is told, as those of a KMS may be."""

    wrap_alg = WrapAlgorithm.AWS_KMS  # type: ignore[misc]
    size = 0

    def wrap(self, dek: bytes, aad: bytes) -> bytes:
        """Return the wrapped key and zeros."""
        return super().wrap(dek, aad).ljust(self.size, b"\0")[: self.size]

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """Cut the zeros off."""
        return super().unwrap(wrapped[:60], aad)


def test_a_wrapped_key_may_be_as_long_as_the_format_allows() -> None:
    """4096 bytes are fine, one more is refused when it is written, not when it is read."""
    wide = Wide(MASTER_KEY)
    wide.size = 4096
    assert opened(seal(wrapper=wide), wrapper=wide) == TOKEN

    for wide.size in (4097, 70_000, 0):
        with pytest.raises(EncryptionUnavailable):
            seal(wrapper=wide)


def test_the_wrap_algorithm_has_to_be_that_of_the_key() -> None:
    """A message whose byte 5 names another kind of key is not handed to this one."""
    wide = Wide(MASTER_KEY)
    wide.size = 60

    with pytest.raises(TokenUndecryptable):
        opened(seal(wrapper=wide))


@pytest.mark.parametrize("size", [0, 12, 28, 59, 61, 4096])
def test_a_wrapped_key_of_another_size_is_not_even_tried(size: int) -> None:
    """A local key wraps into 60 bytes, and refuses any other number."""
    with pytest.raises(TokenUndecryptable):
        WRAPPER.unwrap(bytes(size), b"")


@pytest.mark.parametrize(
    "padded",
    [
        b"\x01\x00" + bytes(254),
        b"\x00\x01x" + b"y" + bytes(252),
        b"\x00\x01x" + bytes(253 + 256),
    ],
    ids=["length beyond the end", "no zeros after the text", "a block too many"],
)
def test_false_padding_is_refused(monkeypatch: pytest.MonkeyPatch, padded: bytes) -> None:
    """Even under the right keys only one padding of a text is accepted."""
    monkeypatch.setattr(envelope, "pad", lambda text: padded)
    sealed = seal()
    monkeypatch.undo()

    with pytest.raises(TokenUndecryptable):
        opened(sealed)


def test_a_refusal_tells_nothing() -> None:
    """The error has its public sentence, no cause, and no value of ours in its frames' exceptions."""
    with pytest.raises(TokenUndecryptable) as caught:
        opened(seal()[:-1] + b"\0")

    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert caught.value.args == (TokenUndecryptable().message,)


@given(st.binary(max_size=600))
def test_garbage_is_refused(garbage: bytes) -> None:
    """Bytes that are no message are refused, with or without our first bytes before them."""
    for sealed in (garbage, b"CRE1" + garbage, b"CRE1\x01\x01" + garbage):
        with pytest.raises(TokenUndecryptable):
            opened(sealed)
