"""TLS for a connection: the trusted authorities, the verification of a certificate, and its errors.

Reading the system's authorities takes longer than a handshake, so the fork server does it before it forks a child.
"""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from typing import Final

from coderepos.exceptions import RemoteCertificate

_REASONS: Final = {
    10: "expired",
    18: "unknown authority",
    19: "unknown authority",
    20: "unknown authority",
    21: "unknown authority",
    62: "other name",
    64: "other name",
}
"""Reasons by OpenSSL's ``X509_V_ERR_*`` (``x509_vfy.h``)."""


_Stamp = tuple[int, ...] | None

_prepared: tuple[_Stamp, ssl.SSLContext] | None = None


def prepare() -> None:
    """Read the system's certificate authorities for later calls of :func:`tls_context`, here and in forks.

    Another call reads them again if they have changed. If they cannot be read, :func:`tls_context` raises the error.
    """
    global _prepared
    stamp = _trust_store_stamp()
    if _prepared is None or _prepared[0] != stamp:
        _prepared = None
        with suppress(RemoteCertificate):
            _prepared = stamp, _new_context(None)


def tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Return a client context that verifies; unlike ``create_default_context`` it never writes to ``SSLKEYLOGFILE``.

    :param ca_bundle: PEM file that replaces the system's certificate authorities.
    :raises RemoteCertificate: the trust store cannot be read.
    """
    if ca_bundle is None and _prepared is not None and _prepared[0] == _trust_store_stamp():
        return _prepared[1]
    return _new_context(ca_bundle)


def _trust_store_stamp() -> _Stamp:
    """Return what identifies the contents of the system's file of certificate authorities.

    Those in a directory are looked up in each handshake.
    """
    path = ssl.get_default_verify_paths().cafile
    try:
        found = os.stat(path) if path else None
    except OSError:
        found = None
    return found and (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _new_context(ca_bundle: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # A host name counts only in the subject alternative names (RFC 9525).
    context.hostname_checks_common_name = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        if ca_bundle is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=ca_bundle)
    except OSError:
        raise RemoteCertificate(reason="trust store") from None
    return context


def start_tls(connected: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """Do the handshake and return the TLS socket.

    :raises RemoteCertificate: the certificate cannot be verified.
    :raises OSError: the handshake fails in another way.
    """
    try:
        # As bytes: see addresses.look_up.
        return context.wrap_socket(connected, server_hostname=host.encode("ascii"))
    except ssl.SSLCertVerificationError as error:
        raise RemoteCertificate(reason=_REASONS.get(error.verify_code, "certificate")) from None
