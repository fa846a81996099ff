"""A TCP or TLS connection that is pinned to checked addresses and read through a meter."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from contextlib import suppress
from typing import Any, Final, cast

from coderepos.exceptions import RemoteProtocolError, RemoteTimeout, RemoteUnreachable
from coderepos.git.addresses import Resolver, address_allowed, resolve
from coderepos.git.messages import NetworkPolicy
from coderepos.git.url import DEFAULT_PORTS, GitUrl, may_be_private

READ_BYTES: Final = 262_144
"""Most bytes that are taken from the socket at once."""

PREAMBLE: Final = "preamble too large"
"""Reason of the error for too many bytes before the pack."""

CONNECT_SHARE_SECONDS: Final = 3.0
"""Longest wait for one address where further ones are left to try."""


class Meter:
    """Counts what arrives on a connection, in time and bytes.

    :param seconds: time for everything from now on.
    :param receive_seconds: longest wait for the next bytes.
    :param allowed_bytes: bytes that may arrive until :meth:`allow` says otherwise.
    :param reason: what the error says when more arrive.
    """

    def __init__(self, *, seconds: float, receive_seconds: float, allowed_bytes: int, reason: str) -> None:
        self.receive_seconds: Final = receive_seconds
        self.received_bytes = 0
        self._deadline: Final = time.monotonic() + seconds
        self._allowed_bytes = allowed_bytes
        self._reason = reason

    def allow(self, allowed_bytes: int, reason: str) -> None:
        """Set anew how many bytes may arrive, those that did included."""
        self._allowed_bytes = allowed_bytes
        self._reason = reason

    def wait_seconds(self) -> float:
        """Return how long the next bytes may take.

        :raises RemoteTimeout: the time is over.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise RemoteTimeout
        return min(left, self.receive_seconds)

    def received(self, size: int) -> None:
        """Count bytes that arrived.

        :raises RemoteProtocolError: more arrived than is allowed.
        """
        self.received_bytes += size
        if self.received_bytes > self._allowed_bytes:
            raise RemoteProtocolError(reason=self._reason)


class PinnedConnection(http.client.HTTPConnection):
    """Resolves its host once, connects to the numbers that it got, and reads through the meter."""

    def __init__(self, url: GitUrl, policy: NetworkPolicy, meter: Meter, resolver: Resolver) -> None:
        super().__init__(url.host, url.port)
        self.default_port = DEFAULT_PORTS[url.scheme]
        self._meter: Final = meter
        self._private_ok: Final = may_be_private(url, policy)
        self._server_name: Final = url.host if url.scheme == "https" else None
        self._ca_bundle: Final = policy.ca_bundle
        self._resolver: Final = resolver
        self._addresses: list[tuple[socket.AddressFamily, tuple[Any, ...]]] = []
        self._tls_context: ssl.SSLContext | None = None

    def connect(self) -> None:
        """Open the connection (called by :mod:`http.client`)."""
        self._addresses = self._addresses or resolve(
            self.host, self.port, private_ok=self._private_ok, resolver=self._resolver
        )
        connected = self._connect_first()
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._server_name is not None:
                self._tls_context = self._tls_context or _tls_context(self._ca_bundle)
                connected.settimeout(self._meter.wait_seconds())
                connected = self._tls_context.wrap_socket(connected, server_hostname=self._server_name)
        except BaseException:
            connected.close()
            raise
        self.sock = cast("socket.socket", _MeteredSocket(connected, self._meter))

    def _connect_first(self) -> socket.socket:
        *others, last = self._addresses
        for family, address in others:
            with suppress(OSError):
                return self._connect_to(family, address, min(self._meter.wait_seconds(), CONNECT_SHARE_SECONDS))
        return self._connect_to(*last, self._meter.wait_seconds())

    def _connect_to(self, family: socket.AddressFamily, address: tuple[Any, ...], seconds: float) -> socket.socket:
        candidate = socket.socket(family, socket.SOCK_STREAM)
        try:
            candidate.settimeout(seconds)
            candidate.connect(address)
            self._check_peer(candidate)
        except BaseException:
            candidate.close()
            raise
        return candidate

    def _check_peer(self, connected: socket.socket) -> None:
        """Check the address once more; one of this machine's own public addresses is private too."""
        peer = str(connected.getpeername()[0])
        own = peer == connected.getsockname()[0]
        if not address_allowed(peer, private_ok=self._private_ok) or (own and not self._private_ok):
            raise RemoteUnreachable


class _MeteredSocket:
    """What :mod:`http.client` needs of a socket, read through a meter and with a larger buffer."""

    def __init__(self, connected: socket.socket, meter: Meter) -> None:
        self._connected: Final = connected
        self._meter: Final = meter

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_MeteredReader(self._connected, self._meter), READ_BYTES)

    def sendall(self, data: bytes) -> None:
        self._connected.settimeout(self._meter.wait_seconds())
        self._connected.sendall(data)

    def close(self) -> None:
        """Close the socket, or let the last reader of it do so."""
        self._connected.close()


class _MeteredReader(io.RawIOBase):
    def __init__(self, connected: socket.socket, meter: Meter) -> None:
        self._connected: Final = connected
        self._stream: Final = connected.makefile("rb", buffering=0)
        self._meter: Final = meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connected.settimeout(self._meter.wait_seconds())
        size = self._stream.readinto(buffer) or 0
        self._meter.received(size)
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()


def _tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Return a verifying client context; unlike ``create_default_context`` it logs no keys to ``SSLKEYLOGFILE``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_bundle is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=ca_bundle)
    return context
