"""Certificates that name no host, the wrong one, or nobody whom this installation trusts."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.servers.hostile import HostileServer, v2_server
from tests.support.site import TOKEN, Site

pytestmark = pytest.mark.of_any_database


def certificate(folder: Path, *, names: list[x509.GeneralName] | None, days: int = 1) -> tuple[Path, Path]:
    """Write a self-signed certificate whose subject is localhost, with or without further names, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


LOCALHOST: list[x509.GeneralName] = [x509.DNSName("localhost")]
Case = tuple[list[x509.GeneralName] | None, int, bool, str | None]
CASES: dict[str, Case] = {
    "good": (LOCALHOST, 1, True, None),
    "name in the subject alone": (None, 1, True, "remote_certificate"),
    "another name": ([x509.DNSName("other.example")], 1, True, "other name"),
    "expired": (LOCALHOST, -1, True, "expired"),
    "unknown authority": (LOCALHOST, 1, False, "unknown authority"),
}


@pytest.fixture
def reached(tmp_path: Path, site: Site, request: pytest.FixtureRequest) -> Iterator[tuple[HostileServer, str]]:
    """A host with the certificate of a case, and how it is written in a URL."""
    names, days, trusted, _ = CASES[request.param]
    paths = certificate(tmp_path, names=names, days=days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*paths)
    with HostileServer(v2_server(), tls_context=context) as host:
        port = host.host.rpartition(":")[2]
        bundle = str(paths[0]) if trusted else None
        site.trust(host, PRIVATE_GIT_HOSTS=[f"localhost:{port}"], INSECURE_HTTP_HOSTS=[], GIT_CA_BUNDLE=bundle)
        yield host, f"https://localhost:{port}/owner/repository.git"


@pytest.mark.parametrize(("reached", "case"), [(case, case) for case in CASES], indirect=["reached"])
def test_certificate(site: Site, reached: tuple[HostileServer, str], case: str) -> None:
    """Only a certificate that names the host in its subjectAltName is taken (RFC 9525); why not another one is said."""
    host, url = reached
    reason = CASES[case][3]

    answer = site.connect(url, access_token=TOKEN)

    if reason is None:
        assert answer.status_code == 201
        return
    detail = answer.json()["detail"]
    assert (answer.status_code, detail["error"]) == (502, "remote_certificate")
    assert reason in ("remote_certificate", detail["reason"])
    assert host.requests == []
