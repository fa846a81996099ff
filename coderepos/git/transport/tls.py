"""TLS for a connection: verification of the certificate, and its errors."""

from __future__ import annotations

import socket
import ssl
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


def tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Return a client context that verifies; unlike ``create_default_context`` it never writes to ``SSLKEYLOGFILE``.

    :param ca_bundle: PEM file that replaces the system's certificate authorities.
    :raises RemoteCertificate: the trust store cannot be read.
    """
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
