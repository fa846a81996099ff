"""Keys of services in the settings: their names, the keyring that holds them beside local ones, missing clients."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from coderepos.crypto import keyring as keyrings
from coderepos.crypto.envelope import KeyWrapper, LocalKeyWrapper
from coderepos.crypto.keyring import keyring, problems
from coderepos.crypto.message import Context, WrapAlgorithm
from coderepos.crypto.providers import SERVICES, Service, kms_call, missing_extra, open_key, split_key_id
from coderepos.crypto.providers.kms_call import ErrorClass, call_kms
from coderepos.exceptions import EncryptionUnavailable, TokenUndecryptable
from tests.support.servers.key_services import Aws, Vault, running

ROOT = Path(__file__).resolve().parents[3]
CONTEXT = Context(table="code_repos", field="token_ciphertext", row_id="row", project_id="project")
LOCAL = base64.b64encode(bytes(range(60, 92))).decode()
ARN = Aws.arn
GOOD = [
    (f"aws-kms://{ARN}", ("aws-kms", ARN)),
    (ARN, ("aws-kms", ARN)),
    ("arn:aws-us-gov:kms:us-gov-west-1:111122223333:alias/a/b", None),
    ("arn:aws:kms:eu-central-1:111122223333:key/mrk-1234abcd", None),
    ("gcp-kms://projects/p-1/locations/global/keyRings/r/cryptoKeys/k", None),
    ("azure-kv://shop/tokens", ("azure-kv", "shop/tokens")),
    ("azure-kv://shop.managedhsm.azure.net/tokens", None),
    ("azure-kv://127.0.0.1:8443/tokens", None),
    ("vault-transit://transit/tokens", ("vault-transit", "transit/tokens")),
    ("vault-transit://team/one/transit/tokens", None),
]
BAD = [
    "",
    "aws-kms://",
    "tokens",
    "file:///etc/passwd",
    "https://kms.example/key",
    "aws-kms://alias/coderepos",
    f"aws-kms://{ARN} ",
    f"aws-kms://{ARN}\n",
    "arn:aws:s3:::bucket",
    "gcp-kms://projects/p/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
    "gcp-kms://p/r/k",
    "azure-kv://shop",
    "azure-kv://shop/tokens/0123456789abcdef0123456789abcdef",
    "azure-kv://user@shop/tokens",
    "vault-transit://tokens",
    "vault-transit://transit/../sys/seal",
    "vault-transit://transit/tokens?x=1",
]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key of a service from another test, short waits, credentials that are nobody's."""
    for name in ("AWS_ENDPOINT_URL_KMS", "VAULT_ADDR", "VAULT_TOKEN"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unused")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "unused")
    monkeypatch.setattr(kms_call, "TOTAL_SECONDS", 1.0)
    monkeypatch.setattr(kms_call, "PAUSE_SECONDS", 0.01)
    keyrings._kms_wrapper.cache_clear()
    yield
    keyrings._kms_wrapper.cache_clear()


def keys(**values: Any) -> override_settings:
    """Settings with these keys alone."""
    return override_settings(CODEREPOS=values)


def numbers() -> list[int]:
    """The numbers of the problems that the checks would report."""
    return [number for number, _, _ in problems()]


@pytest.mark.parametrize(("key_id", "parts"), GOOD)
def test_the_name_of_a_key_is_understood(key_id: str, parts: tuple[str, str] | None) -> None:
    """Every documented form, a bare ARN among them."""
    assert parts is None or split_key_id(key_id) == parts
    assert split_key_id(key_id)[0] in ("aws-kms", "gcp-kms", "azure-kv", "vault-transit")
    with keys(KMS_KEY_ID=key_id):
        assert numbers() == []


@pytest.mark.parametrize("key_id", BAD)
def test_any_other_name_is_refused(key_id: str) -> None:
    """No alias without account, no version, no path that leads elsewhere, nothing of another service."""
    with pytest.raises(ValueError, match="A KMS key is"):
        split_key_id(key_id)
    with keys(MASTER_ENCRYPTION_KEY=LOCAL, DECRYPT_ONLY_KMS_KEY_IDS=[key_id]):
        assert numbers() == [6]
        with pytest.raises(EncryptionUnavailable):
            keyring()


def test_every_service_has_a_number_an_extra_and_a_row_in_the_docs() -> None:
    """A service that is added gets all of it; numbers are part of stored messages and never change."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    page = (ROOT / "docs/encryption.md").read_text()
    documented = dict(re.findall(r"\| `coderepos\[(\w+)\]` \| `([\w-]+)://", page))

    assert documented == {service.extra: service.scheme for service in SERVICES.values()}
    assert documented.keys() <= set(setup["options.extras_require"])
    assert list(map(int, WrapAlgorithm)) == [1, 2, 3, 4, 5]
    assert {key_wrapper(service).wrap_alg for service in SERVICES.values()} == {*WrapAlgorithm} - {WrapAlgorithm.LOCAL}


def key_wrapper(service: Service) -> type[KeyWrapper]:
    """Return the class of the service's module that wraps."""
    module = importlib.import_module(f"coderepos.crypto.providers.{service.extra}")
    found: type[KeyWrapper] = next(one for one in vars(module).values() if hasattr(one, "wrap_alg"))
    return found


def test_a_missing_client_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library a check says what to install, and the key is unavailable rather than an import error."""
    find_spec = importlib.util.find_spec

    def without_clients(name: str, package: str | None = None) -> Any:
        if name.startswith("google"):
            raise ModuleNotFoundError(name)
        return None if name == "hvac" else find_spec(name, package)

    monkeypatch.setattr("coderepos.crypto.providers.find_spec", without_clients)

    assert missing_extra(f"vault-transit://{Vault.name}") == "vault"
    assert missing_extra("gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k") == "gcp"
    assert missing_extra(ARN) is None
    with pytest.raises(EncryptionUnavailable):
        open_key(f"vault-transit://{Vault.name}")
    with keys(KMS_KEY_ID=f"vault-transit://{Vault.name}"):
        assert numbers() == [7]


def test_clients_are_imported_when_they_are_used() -> None:
    """A process without KMS in its settings loads none of the client libraries."""
    code = "import sys, coderepos.crypto.keyring; print({'boto3', 'hvac', 'azure', 'google.cloud'} & set(sys.modules))"
    with os.popen(f"{sys.executable} -c {code!r}") as output:  # noqa: S605  nothing of it comes from outside
        assert output.read().strip() == "set()"


def test_the_same_key_twice_is_reported() -> None:
    """Also where one of them is written as a bare ARN."""
    with keys(KMS_KEY_ID=ARN, DECRYPT_ONLY_KMS_KEY_IDS=[f"aws-kms://{ARN}"]):
        assert numbers() == [4]


@pytest.mark.parametrize(
    ("primary", "given", "expected"),
    [
        (None, {"MASTER_ENCRYPTION_KEY": LOCAL, "KMS_KEY_ID": ARN}, [5]),
        ("", {"MASTER_ENCRYPTION_KEY": LOCAL, "KMS_KEY_ID": ARN}, [5]),
        ("kms", {"MASTER_ENCRYPTION_KEY": LOCAL}, [8]),
        ("local", {"KMS_KEY_ID": ARN}, [8]),
        ("vault", {"MASTER_ENCRYPTION_KEY": LOCAL}, [8]),
    ],
)
def test_the_key_that_seals_has_to_be_clear(primary: str | None, given: dict[str, Any], expected: list[int]) -> None:
    """Two keys without a choice, or a choice without its key: nothing is sealed, and a check says why."""
    with keys(PRIMARY_KEY=primary, **given):
        assert numbers() == expected
        with pytest.raises(EncryptionUnavailable):
            keyring().require_primary()


@pytest.mark.parametrize(("primary", "scheme"), [("local", "local:"), ("kms", "vault-transit:")])
def test_primary_key_chooses(tmp_path: Path, primary: str, scheme: str) -> None:
    """With both given, the setting says which of them seals; both open."""
    with running(Vault, tmp_path) as service:
        service.wrapper()  # sets the address
        both = {"MASTER_ENCRYPTION_KEY": LOCAL, "KMS_KEY_ID": Vault.kid}
        sealed = {}
        for name in ("local", "kms"):
            with keys(PRIMARY_KEY=name, **both):
                sealed[name] = keyring().seal("token", CONTEXT)

        with keys(PRIMARY_KEY=primary, **both):
            assert numbers() == []
            assert keyring().require_primary().kid.startswith(scheme)
            assert [keyring().open(*sealed[name], CONTEXT) for name in sealed] == ["token", "token"]


def test_a_local_key_opens_while_a_service_is_away(tmp_path: Path) -> None:
    """Moving away from a service, or to one: its outage concerns its own tokens alone, and is worth another try."""
    with running(Aws, tmp_path) as service:
        service.wrapper()
        with keys(KMS_KEY_ID=ARN):
            under_kms = keyring().seal("token", CONTEXT)
    keyrings._kms_wrapper.cache_clear()

    with keys(MASTER_ENCRYPTION_KEY=LOCAL, DECRYPT_ONLY_KMS_KEY_IDS=[ARN]):
        sealed, kid = keyring().seal("token", CONTEXT)
        assert keyring().open(sealed, kid, CONTEXT) == "token"
        with pytest.raises(EncryptionUnavailable):
            keyring().open(*under_kms, CONTEXT)
        with pytest.raises(TokenUndecryptable):
            keyring().open(sealed, "local:" + "0" * 32, CONTEXT)
        with pytest.raises(TokenUndecryptable):
            keyring().open(sealed, "vault-transit://transit/tokens", CONTEXT)


def test_a_service_that_comes_back_is_asked_again(tmp_path: Path) -> None:
    """A failure to reach it is not remembered; an answer is."""
    with keys(KMS_KEY_ID=ARN):
        os.environ["AWS_ENDPOINT_URL_KMS"] = "http://127.0.0.1:9"
        with pytest.raises(EncryptionUnavailable):
            keyring().require_primary()
        with running(Aws, tmp_path) as service:
            service.wrapper()
            first = keyring().require_primary()
            assert keyring().require_primary() is first
            assert keyring().find(first.kid) is first
            assert keyring().find(first.kid + "x") is None


def test_a_forked_process_makes_its_own_connection(tmp_path: Path) -> None:
    """Two processes on one connection would read each other's answers."""
    with running(Aws, tmp_path) as service, keys(KMS_KEY_ID=ARN):
        service.wrapper()
        keyring().require_primary()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, str(keyrings._kms_wrapper.cache_info().currsize).encode())
            os._exit(0)
        os.waitpid(child, 0)
        answer = os.read(reader, 8)
        os.close(reader)
        os.close(writer)

    assert answer == b"0"


def test_both_attempts_share_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that fails late leaves less time to the second one; what is late is left behind."""
    monkeypatch.setattr(kms_call, "TOTAL_SECONDS", 0.4)
    released, asked = threading.Event(), []

    def operation() -> None:
        asked.append(1)
        if len(asked) == 1:
            time.sleep(0.3)
            raise OSError
        released.wait(5)

    started = time.monotonic()
    with pytest.raises(EncryptionUnavailable):
        call_kms("kid", operation, lambda error: ErrorClass.TRANSIENT)
    released.set()

    assert len(asked) == 2
    assert time.monotonic() - started < 0.8


def test_without_credentials_a_service_is_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No application default credentials at Google: an error of ours, no hang, no import error."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))

    with pytest.raises(EncryptionUnavailable):
        open_key("gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k")


def test_a_vault_without_a_dot_is_one_of_the_public_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short name gets Azure's domain; the kid is what the settings say."""
    from coderepos.crypto.providers import azure

    urls: list[str] = []
    monkeypatch.setattr(azure, "KeyClient", lambda url, credential, **options: urls.append(url))

    kids = [open_key(f"azure-kv://{name}/tokens").kid for name in ("shop", "shop.vault.azure.cn")]

    assert urls == ["https://shop.vault.azure.net", "https://shop.vault.azure.cn"]
    assert kids == ["azure-kv://shop/tokens", "azure-kv://shop.vault.azure.cn/tokens"]


def test_a_local_key_is_a_key_wrapper_like_those_of_the_services() -> None:
    """The protocol is one: nothing above it knows which kind of key it has."""
    wrapper: KeyWrapper = LocalKeyWrapper(bytes(range(32)))

    assert wrapper.unwrap(wrapper.wrap(bytes(32), b"row"), b"row") == bytes(32)
