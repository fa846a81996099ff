"""The stored format against vectors that never change, and against a computation of its own from the standards."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coderepos.crypto import envelope
from coderepos.crypto.envelope import LocalKeyWrapper
from coderepos.crypto.message import SUITE_ORIGIN, SUITE_UNBOUND, Context

FILES = [json.loads(path.read_text()) for path in sorted((Path(__file__).parents[1] / "vectors").glob("cre1*.json"))]
VECTORS: list[dict[str, str]] = [vector for file in FILES for vector in file["vectors"]]
NIST = Path(cryptography_vectors.__path__[0]) / "ciphers" / "AES" / "GCM"
RFC_5869 = [
    # key, salt, info, size, output: test cases 1 to 3 of the RFC's appendix A
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        42,
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        82,
        (
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
            "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
            "cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
    ),
    (
        "0b" * 22,
        "",
        "",
        42,
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


def lp(*parts: bytes) -> bytes:
    """Each part with its 4-byte big-endian length before it."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def hkdf(key: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """HKDF-SHA256 as RFC 5869 writes it, sections 2.2 and 2.3."""
    prk = hmac.new(salt or bytes(32), key, hashlib.sha256).digest()
    output, block, number = b"", b"", 1
    while len(output) < size:
        block = hmac.new(prk, block + info + bytes([number]), hashlib.sha256).digest()
        output, number = output + block, number + 1
    return output[:size]


def expected(vector: dict[str, str]) -> bytes:
    """The message as the format's description alone gives it."""
    master, dek, message_id = (bytes.fromhex(vector[name]) for name in ("master_key", "dek", "message_id"))
    data_nonce, wrap_nonce = bytes.fromhex(vector["data_nonce"]), bytes.fromhex(vector["wrap_nonce"])
    both = hkdf(dek, message_id, b"coderepos/v1/dek", 64)
    key, commitment = both[:32], both[32:]
    names = ("table", "field", "row_id", "project_id")
    context = lp(b"coderepos/v1", *(vector[name].encode() for name in names))
    kid = "local:" + hkdf(master, b"", b"coderepos/v1/kid", 16).hex()
    suite = b"\x02" if "origin" in vector else b"\x01"
    wrap_aad = lp(b"wrap", b"CRE1", suite, b"\x01", message_id, commitment, context, kid.encode())
    data_aad = lp(b"data", b"CRE1", suite, message_id, commitment, context)
    data_aad += lp(vector["origin"].encode()) if "origin" in vector else b""
    wrap_key = hkdf(master, b"", b"coderepos/v1/kek-wrap", 32)
    wrapped = wrap_nonce + AESGCM(wrap_key).encrypt(wrap_nonce, dek, wrap_aad)
    token = vector["token"].encode()
    padded = struct.pack(">H", len(token)) + token
    padded += bytes(-len(padded) % 256)
    head = b"CRE1" + suite + b"\x01" + message_id + commitment + data_nonce + struct.pack(">H", len(wrapped))
    return head + wrapped + AESGCM(key).encrypt(data_nonce, padded, data_aad)


class FixedNonce(LocalKeyWrapper):
    """A local key that wraps under a nonce that was chosen before."""

    def __init__(self, master_key: bytes, nonce: bytes) -> None:
        super().__init__(master_key)
        self.nonce = nonce

    def wrap(self, dek: bytes, aad: bytes) -> bytes:
        """Return nonce, encrypted DEK and tag."""
        return self._wrap_with(self.nonce, dek, aad)


def context_of(vector: dict[str, str]) -> Context:
    """The row that a vector belongs to."""
    names = "table", "field", "row_id", "project_id", "origin"
    return Context(**{name: vector[name] for name in names if name in vector})


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_is_what_the_description_of_the_format_gives(vector: dict[str, str]) -> None:
    """The kept bytes follow from the format's description, computed without the module under test."""
    assert expected(vector).hex() == vector["sealed"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_sealing_the_parts_of_a_vector_gives_its_bytes(vector: dict[str, str]) -> None:
    """No release changes what is written without a new suite number."""
    wrapper = FixedNonce(bytes.fromhex(vector["master_key"]), bytes.fromhex(vector["wrap_nonce"]))

    sealed = envelope._seal_from_parts(
        vector["token"].encode(),
        wrapper=wrapper,
        context=context_of(vector),
        dek=bytes.fromhex(vector["dek"]),
        message_id=bytes.fromhex(vector["message_id"]),
        nonce=bytes.fromhex(vector["data_nonce"]),
    )

    assert sealed.hex() == vector["sealed"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_opens_for_ever(vector: dict[str, str]) -> None:
    """What this release writes, every later one reads; the kid follows from the key alone."""
    wrapper = LocalKeyWrapper(bytes.fromhex(vector["master_key"]))

    opened = envelope.open_sealed(bytes.fromhex(vector["sealed"]), wrapper=wrapper, context=context_of(vector))

    assert opened.decode() == vector["token"]
    assert wrapper.kid == vector["kid"]


def test_there_are_vectors_of_every_suite() -> None:
    """A suite without kept bytes could change unnoticed."""
    assert {file["suite"] for file in FILES} == {SUITE_UNBOUND, SUITE_ORIGIN}
    for file in FILES:
        assert {bytes.fromhex(vector["sealed"])[4] for vector in file["vectors"]} == {file["suite"]}


@pytest.mark.parametrize(("key", "salt", "info", "size", "output"), RFC_5869)
def test_hkdf_gives_the_outputs_of_the_rfc(key: str, salt: str, info: str, size: int, output: str) -> None:
    """HKDF-SHA256 is the one of RFC 5869, in the module and in this file's own computation."""
    parts = bytes.fromhex(key), bytes.fromhex(salt), bytes.fromhex(info)

    assert envelope._hkdf(*parts, size).hex() == output
    assert hkdf(*parts, size).hex() == output


def nist(name: str) -> list[dict[str, str]]:
    """The cases of one of NIST's response files with nonces of 96 bits and tags of 128 bits, which we use."""
    cases: list[dict[str, str]] = []
    lengths: dict[str, str] = {}
    for line in (NIST / name).read_text().splitlines():
        field, _, value = (part.strip() for part in line.strip("[]").partition("="))
        if line.startswith("["):
            lengths[field] = value
        elif field == "Count":
            cases.append({**lengths})
        elif cases and line:
            cases[-1][field] = value
    return [case for case in cases if case["IVlen"] == "96" and case["Taglen"] == "128"]


def test_aes_gcm_decrypts_and_refuses_as_nist_says() -> None:
    """AES-256-GCM of the library gives NIST's answers, refusals included, for the sizes of nonce and tag in use."""
    cases = nist("gcmDecrypt256.rsp")
    refused = 0
    for case in cases:
        parts: dict[str, Any] = {name: bytes.fromhex(case[name]) for name in ("Key", "IV", "CT", "AAD", "Tag")}
        try:
            text = AESGCM(parts["Key"]).decrypt(parts["IV"], parts["CT"] + parts["Tag"], parts["AAD"])
        except InvalidTag:
            refused += 1
            assert "PT" not in case
        else:
            assert text == bytes.fromhex(case["PT"])

    assert len(cases) == 375
    assert 100 < refused < 300


def test_aes_gcm_encrypts_as_nist_says() -> None:
    """AES-256-GCM of the library gives NIST's ciphertexts and tags."""
    cases = nist("gcmEncryptExtIV256.rsp")
    for case in cases:
        parts: dict[str, Any] = {name: bytes.fromhex(case[name]) for name in ("Key", "IV", "PT", "AAD")}
        sealed = AESGCM(parts["Key"]).encrypt(parts["IV"], parts["PT"], parts["AAD"])
        assert sealed == bytes.fromhex(case["CT"] + case["Tag"])

    assert len(cases) == 375
