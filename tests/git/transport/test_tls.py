"""The certificate authorities of the system are read ahead, and again where they have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coderepos.exceptions import RemoteCertificate
from coderepos.git.transport import tls
from tests.support.servers.certificates import tls_server


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the system's authorities, with one of them."""
    (tmp_path / "one").mkdir()
    _, certificate = tls_server(tmp_path / "one")
    path = tmp_path / "authorities.pem"
    path.write_bytes(certificate.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    monkeypatch.setattr(tls, "_prepared", None)
    return path


def test_what_was_prepared_is_used(store: Path) -> None:
    """The authorities are read once, and of every context the same is true."""
    assert tls.tls_context(None) is not tls.tls_context(None)

    tls.prepare()
    prepared = tls.tls_context(None)
    tls.prepare()

    assert tls.tls_context(None) is prepared
    assert len(prepared.get_ca_certs()) == 1
    assert prepared.check_hostname
    assert not prepared.hostname_checks_common_name


def test_a_changed_store_is_read_again(store: Path, tmp_path: Path) -> None:
    """Whether it is prepared anew or not, nobody is trusted who was removed."""
    (tmp_path / "two").mkdir()
    _, other = tls_server(tmp_path / "two")
    tls.prepare()
    (before,) = tls.tls_context(None).get_ca_certs(binary_form=True)

    replacement = tmp_path / "new.pem"
    replacement.write_bytes(other.read_bytes())
    os.replace(replacement, store)

    (after,) = tls.tls_context(None).get_ca_certs(binary_form=True)
    assert after != before
    tls.prepare()
    assert tls.tls_context(None) is tls.tls_context(None)
    assert tls.tls_context(None).get_ca_certs(binary_form=True) == [after]


def test_without_a_store_nobody_is_trusted(store: Path) -> None:
    """A store that is gone or broken is not replaced by what was read before."""
    tls.prepare()
    store.write_text("no certificate")
    assert tls.tls_context(None).get_ca_certs() == []

    store.unlink()
    assert tls.tls_context(None).get_ca_certs() == []
    tls.prepare()
    assert tls.tls_context(None).get_ca_certs() == []


def test_a_bundle_of_the_settings_is_read_for_each_request(store: Path, tmp_path: Path) -> None:
    """It replaces the system's authorities; one that cannot be read is an error."""
    (tmp_path / "two").mkdir()
    _, other = tls_server(tmp_path / "two")
    tls.prepare()

    assert tls.tls_context(str(other)) is not tls.tls_context(str(other))
    assert tls.tls_context(str(other)).get_ca_certs() != tls.tls_context(None).get_ca_certs()
    with pytest.raises(RemoteCertificate):
        tls.tls_context(str(tmp_path / "missing.pem"))
