"""The TLS side of a connection; imported for ``https`` alone."""

from __future__ import annotations

import ssl


def tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Return a verifying client context; unlike ``create_default_context`` it logs no keys to ``SSLKEYLOGFILE``.

    :param ca_bundle: PEM file that replaces the system's certificate authorities.
    :raises OSError: the trust store cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_bundle is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=ca_bundle)
    return context
