"""Key management services on loopback that speak the wire protocol of the real ones, with faults on demand."""

from __future__ import annotations

import base64
import gc
import json
import os
import re
import ssl
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coderepos.crypto.envelope import KeyWrapper
from coderepos.crypto.providers.gcp import crc32c
from coderepos.hidden import HiddenBytes
from tests.support.servers.certificates import tls_server
from tests.support.servers.http_server import Exchange, HttpServer

Answer = tuple[int, dict[str, Any]]

LEFT_OPEN = "ignore:unclosed <ssl.SSLSocket:ResourceWarning"
"""A filter: clients leave a TLS connection open whose server went away, and so does Python's ssl one reset early."""


def encode(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()


def decode_url(text: str) -> bytes:
    """Base64 of URLs, as JSON web keys write it, without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encode_url(data: bytes) -> str:
    """Base64 of URLs, as JSON web keys write it, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Service(HttpServer):
    """One symmetric key behind HTTP; subclasses speak the protocol of one provider."""

    kid: ClassVar[str]

    def __init__(self, *, tls_context: ssl.SSLContext | None = None) -> None:
        super().__init__(tls_context=tls_context)
        self.keys = [AESGCM(os.urandom(32))]
        self.enabled = True
        self.faults: list[int | str] = []
        """What goes wrong with the next requests: a status, ``silent``, ``drip`` or ``close``."""
        self.wrong_name = False
        self.plaintext: bytes | None = None
        """What decrypting answers instead of the truth."""

    def answer(self, exchange: Exchange) -> None:
        """Answer as the provider does, or with the next fault."""
        fault = self.faults.pop(0) if self.faults else None
        if fault == "drip":
            exchange.head(Content_Type="application/json", Content_Length="1000")
            while exchange.wait(0.1):
                exchange.send(b" ")
        if fault == "silent":
            exchange.wait(20)
        if isinstance(fault, str):
            raise ConnectionError(fault)
        status, answer = self.reply(exchange) if fault is None else self.fault(fault)
        exchange.answer(json.dumps(answer).encode(), "application/json", status, **self.headers(status))

    def rotate(self) -> None:
        """Make a new version of the key; older ones still open."""
        self.keys.append(AESGCM(os.urandom(32)))

    def encrypt(self, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt under the newest version."""
        nonce = os.urandom(12)
        return bytes([len(self.keys) - 1]) + nonce + self.keys[-1].encrypt(nonce, plaintext, aad)

    def decrypt(self, ciphertext: bytes, aad: bytes) -> bytes | None:
        """Decrypt, or ``None``."""
        if len(ciphertext) < 29 or ciphertext[0] >= len(self.keys):
            return None
        try:
            text = self.keys[ciphertext[0]].decrypt(ciphertext[1:13], ciphertext[13:], aad)
        except InvalidTag:
            return None
        return text if self.plaintext is None else self.plaintext

    def headers(self, status: int) -> dict[str, str]:
        """Further headers of an answer."""
        return {}

    def wrapper(self) -> KeyWrapper:
        """The wrapper under test, with the official client in between."""
        raise NotImplementedError

    def reply(self, exchange: Exchange) -> Answer:
        """Answer as the provider does."""
        raise NotImplementedError

    def fault(self, status: int) -> Answer:
        """An error answer as the provider writes it."""
        raise NotImplementedError


class Aws(Service):
    """AWS KMS: JSON 1.1, the action in a header."""

    arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    kid = f"aws-kms://{arn}"
    name = arn

    def wrapper(self) -> KeyWrapper:
        """boto3 takes endpoint and credentials from the environment."""
        from coderepos.crypto.providers import open_key

        os.environ["AWS_ENDPOINT_URL_KMS"] = f"http://{self.host}"
        return open_key(f"aws-kms://{self.name}")

    def reply(self, exchange: Exchange) -> Answer:
        """Answer DescribeKey, Encrypt and Decrypt."""
        asked = json.loads(exchange.body)
        action = exchange.headers["x-amz-target"].rpartition(".")[2]
        name = self.arn[:-1] + "0" if self.wrong_name else self.arn
        if action == "DescribeKey":
            return 200, {"KeyMetadata": {"KeyId": name, "Arn": name}}
        if asked["KeyId"] != self.arn:
            return 400, {"__type": "NotFoundException"}
        if not self.enabled:
            return 400, {"__type": "DisabledException", "message": f"{exchange.body!r} is disabled"}
        aad = json.dumps(asked["EncryptionContext"]).encode()
        if action == "Encrypt":
            return 200, {
                "KeyId": name,
                "CiphertextBlob": encode(self.encrypt(base64.b64decode(asked["Plaintext"]), aad)),
            }
        text = self.decrypt(base64.b64decode(asked["CiphertextBlob"]), aad)
        if text is None:
            return 400, {"__type": "InvalidCiphertextException"}
        return 200, {"KeyId": name, "Plaintext": encode(text)}

    def fault(self, status: int) -> Answer:
        """Throttling has status 400 at AWS."""
        return (400, {"__type": "ThrottlingException"}) if status == 429 else (status, {"__type": "AccessDenied"})


class Gcp(Service):
    """Google Cloud KMS over REST."""

    name = "projects/shop/locations/europe-west3/keyRings/ring/cryptoKeys/tokens"
    kid = f"gcp-kms://{name}"

    def wrapper(self) -> KeyWrapper:
        """The official client, with this server as its host."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.kms_v1 import KeyManagementServiceClient
        from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceRestTransport

        from coderepos.crypto.providers.gcp import GcpKeyWrapper

        transport = KeyManagementServiceRestTransport(
            host=self.host, url_scheme="http", credentials=AnonymousCredentials()
        )
        return GcpKeyWrapper(self.name, KeyManagementServiceClient(transport=transport))

    def reply(self, exchange: Exchange) -> Answer:
        """Answer encrypt and decrypt, checksums included."""
        asked = json.loads(exchange.body)
        path, _, action = exchange.path.partition("?")[0].rpartition(":")
        if path != f"/v1/{self.name}":
            return self.error(404, "NOT_FOUND")
        if not self.enabled:
            return self.error(400, "FAILED_PRECONDITION")
        aad = base64.b64decode(asked["additionalAuthenticatedData"])
        if action == "decrypt":
            text = self.decrypt(base64.b64decode(asked.get("ciphertext", "")), aad)
            return self.error(400, "INVALID_ARGUMENT") if text is None else (200, {"plaintext": encode(text)})
        plaintext = base64.b64decode(asked["plaintext"])
        ciphertext = self.encrypt(plaintext, aad)
        name = self.name[:-1] + "x" if self.wrong_name else self.name
        return 200, {
            "name": f"{name}/cryptoKeyVersions/{len(self.keys)}",
            "ciphertext": encode(ciphertext),
            "ciphertextCrc32c": str(crc32c(ciphertext)),
            "verifiedPlaintextCrc32c": int(asked["plaintextCrc32c"]) == crc32c(HiddenBytes(plaintext)),
            "verifiedAdditionalAuthenticatedDataCrc32c": int(asked["additionalAuthenticatedDataCrc32c"]) == crc32c(aad),
        }

    def error(self, status: int, name: str) -> Answer:
        """An error as Google writes it; its text quotes what was asked, as a hostile one would."""
        return status, {"error": {"code": status, "status": name, "message": f"quoted: {self.requests[-1].body!r}"}}

    def fault(self, status: int) -> Answer:
        """An error with this status."""
        return self.error(status, {403: "PERMISSION_DENIED", 429: "RESOURCE_EXHAUSTED"}.get(status, "UNAVAILABLE"))


class Vault(Service):
    """The Transit engine of Vault."""

    name = "transit/coderepos/tokens"
    kid = f"vault-transit://{name}"

    def wrapper(self) -> KeyWrapper:
        """Return a wrapper; hvac takes address and token from the environment."""
        from coderepos.crypto.providers import open_key

        os.environ |= {"VAULT_ADDR": f"http://{self.host}", "VAULT_TOKEN": "s.unused"}
        return open_key(f"vault-transit://{self.name}")

    def reply(self, exchange: Exchange) -> Answer:
        """Answer encrypt and decrypt."""
        asked = json.loads(exchange.body)
        if not self.enabled:
            return 403, {"errors": ["permission denied"]}
        aad = base64.b64decode(asked["associated_data"])
        if exchange.path == "/v1/transit/coderepos/encrypt/tokens":
            wrapped = self.encrypt(base64.b64decode(asked["plaintext"]), aad)
            prefix = "other" if self.wrong_name else "vault"
            return 200, {"data": {"ciphertext": f"{prefix}:v{wrapped[0] + 1}:{encode(wrapped[1:])}"}}
        assert exchange.path == "/v1/transit/coderepos/decrypt/tokens"
        if not (parts := re.fullmatch(r"\w+:v(\d+):([A-Za-z0-9+/]+=*)", asked["ciphertext"])) or len(parts[2]) % 4:
            return 400, {"errors": ["invalid ciphertext"]}
        text = self.decrypt(bytes([(int(parts[1]) - 1) & 255]) + base64.b64decode(parts[2]), aad)
        if text is None:
            return 400, {"errors": ["cipher: message authentication failed"]}
        return 200, {"data": {"plaintext": encode(text)}}

    def fault(self, status: int) -> Answer:
        """An error with this status."""
        return status, {"errors": [f"quoted: {self.requests[-1].body!r}"]}


@lru_cache
def _rsa_key(number: int) -> rsa.RSAPrivateKey:
    """The same few keys for all tests: making one takes long."""
    return rsa.generate_private_key(65537, 2048)


class Azure(Service):
    """Azure Key Vault: TLS only, a challenge before the first answer, RSA keys whose versions have names."""

    def __init__(self, tls_context: ssl.SSLContext, certificate: Path) -> None:
        super().__init__(tls_context=tls_context)
        self.certificate = certificate
        self.versions = {"0" * 32: _rsa_key(0)}

    @property
    def kid(self) -> str:  # type: ignore[override]  # its port is known late
        """The name of the key."""
        return f"azure-kv://{self.host}/tokens"

    def rotate(self) -> None:
        """Make a new version of the key."""
        self.versions[f"{len(self.versions):032x}"] = _rsa_key(len(self.versions))

    def wrapper(self) -> KeyWrapper:
        """The official client, with a credential that asks nobody and this server's certificate."""
        from azure.core.credentials import AccessToken
        from azure.keyvault.keys import KeyClient

        from coderepos.crypto.providers.azure import LIMITS, AzureKeyWrapper

        class Credential:
            def get_token(self, *scopes: str, **options: Any) -> AccessToken:
                """A token for an hour."""
                return AccessToken("unused", int(time.time()) + 3600)

        client = KeyClient(
            f"https://{self.host}",
            Credential(),
            verify_challenge_resource=False,
            connection_verify=str(self.certificate),
            **LIMITS,
        )
        return AzureKeyWrapper(f"{self.host}/tokens", client, "tokens")

    def headers(self, status: int) -> dict[str, str]:
        """The challenge of an answer 401."""
        challenge = 'Bearer authorization="https://login.example/tenant", resource="https://vault.azure.net"'
        return {"WWW-Authenticate": challenge} if status == 401 else {}

    def reply(self, exchange: Exchange) -> Answer:
        """Answer GET key, and decrypt; encrypting is done by the client with the public key."""
        if "authorization" not in exchange.headers:
            return 401, {}
        parts = exchange.path.partition("?")[0].strip("/").split("/")
        assert parts[:2] == ["keys", "tokens"]
        version = parts[2] if len(parts) > 2 and parts[2] else list(self.versions)[-1]
        if version not in self.versions:
            return 404, {"error": {"code": "KeyNotFound", "message": "not found"}}
        key = self.versions[version]
        key_id = f"https://{self.host}/keys/tokens/{version}"
        if exchange.method == "GET":
            numbers = key.public_key().public_numbers()
            jwk = {
                "kid": key_id if not self.wrong_name else key_id[:-1],
                "kty": "RSA",
                "key_ops": ["encrypt", "decrypt"],
                "n": encode_url(numbers.n.to_bytes(256, "big")),
                "e": encode_url(numbers.e.to_bytes(3, "big")),
            }
            return 200, {"key": jwk, "attributes": {"enabled": self.enabled}}
        if not self.enabled:
            return 403, {"error": {"code": "Forbidden", "message": "disabled"}}
        asked = json.loads(exchange.body)
        assert (parts[3], asked["alg"]) == ("decrypt", "RSA-OAEP-256")
        digest = hashes.SHA256()
        try:
            text = key.decrypt(decode_url(asked["value"]), padding.OAEP(padding.MGF1(digest), digest, None))
        except ValueError:
            return 400, {"error": {"code": "BadParameter", "message": "quoted"}}
        return 200, {"kid": key_id, "value": encode_url(text if self.plaintext is None else self.plaintext)}

    def fault(self, status: int) -> Answer:
        """An error with this status."""
        return status, {"error": {"code": "Fault", "message": f"quoted: {self.requests[-1].body!r}"}}


@contextmanager
def running(kind: type[Service], folder: Path) -> Iterator[Service]:
    """Run one of the services for as long as the block."""
    service = Azure(*tls_server(folder)) if kind is Azure else kind()
    with _connections_collected(), service:
        yield service


@contextmanager
def _connections_collected() -> Iterator[None]:
    """Let go of the connections that official clients leave to the collector, as that of Azure does.

    It would otherwise be a warning in whatever test runs by then.
    """
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
