"""A TCP or TLS connection that is pinned to checked addresses and read through a meter."""

from __future__ import annotations

import socket
import ssl
from typing import Any, Final

from coderepos.exceptions import GitError, RemoteTimeout, RemoteUnreachable
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.transport.addresses import Resolver, address_allowed, resolve
from coderepos.git.transport.background import in_background
from coderepos.git.transport.meter import Meter
from coderepos.git.transport.proxy import tunnelled
from coderepos.git.transport.tls import encrypted, tls_context
from coderepos.git.url import GitUrl, is_resolved_by_proxy, may_be_private, proxy_of

CONNECT_SECONDS: Final = 10.0
"""Longest wait for one address to take the connection."""

CONNECT_SHARE_SECONDS: Final = 3.0
"""Longest wait for one address where further ones are left to try."""


class PinnedConnection:
    """Resolves its host once, connects to the numbers that it got, and reads through the meter.

    What sockets and TLS raise becomes an error of ours by its type alone; remote text stays out of it.
    """

    def __init__(self, url: GitUrl, policy: NetworkPolicy, meter: Meter, resolver: Resolver) -> None:
        self.meter: Final = meter
        self._host: Final = url.host
        self._port: Final = url.port
        self._private_ok: Final = may_be_private(url, policy)
        self._is_tls: Final = url.scheme == "https"
        self._ca_bundle: Final = policy.ca_bundle
        self._proxy: Final = proxy_of(url, policy)
        self._is_resolved_by_proxy: Final = is_resolved_by_proxy(url, policy)
        self._resolver: Final = resolver
        self._addresses: list[tuple[socket.AddressFamily, tuple[Any, ...]]] = []
        self._tls_context: ssl.SSLContext | None = None
        self._socket: socket.socket | None = None
        self._timeout_seconds = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed since, by this side."""
        return self._socket is not None

    def open(self) -> None:
        """Connect.

        :raises RemoteUnreachable: there is no address, none that may be connected to, or none that answers as it must.
        :raises RemoteCertificate: the certificate cannot be verified.
        :raises RemoteTimeout: it takes too long.
        """
        try:
            self._socket = self._encrypted() if self._is_tls else self._connected()
        except (OSError, ValueError) as error:
            raise _remote_error(error) from None

    def send(self, data: bytes) -> None:
        """Send all of ``data``.

        :raises RemoteUnreachable: the connection broke.
        :raises RemoteTimeout: it takes too long.
        """
        try:
            self._ready().sendall(data)
        except OSError as error:
            raise _remote_error(error) from None

    def receive_into(self, buffer: memoryview) -> int:
        """Wait for the next bytes and return how many were put into ``buffer``; none at the end of the connection.

        :raises RemoteUnreachable: the connection broke.
        :raises RemoteTimeout: it takes too long.
        :raises GitError: more arrived than the meter allows.
        """
        try:
            size = self._ready().recv_into(buffer)
        except OSError as error:
            raise _remote_error(error) from None
        self.meter.received(size)
        return size

    def close(self) -> None:
        """Close it; what was not read is dropped."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ready(self) -> socket.socket:
        """Return the socket with the time set that the next step may take."""
        if self._socket is None:
            raise RemoteUnreachable
        seconds = self.meter.wait_seconds()
        if seconds != self._timeout_seconds:
            self._socket.settimeout(seconds)
            self._timeout_seconds = seconds
        return self._socket

    def _encrypted(self) -> socket.socket:
        # The certificates of all authorities take 40 ms to read, while the host is looked up and connected to.
        trust = in_background(self._trust)
        connected = self._connected()
        try:
            self._tls_context = trust(None)
            connected.settimeout(self.meter.wait_seconds())
            return encrypted(connected, self._tls_context, self._host)
        except BaseException:
            connected.close()
            raise

    def _trust(self) -> ssl.SSLContext:
        return self._tls_context or tls_context(self._ca_bundle)

    def _connected(self) -> socket.socket:
        self._timeout_seconds = 0.0
        if self._proxy is not None:
            return tunnelled(self._proxy, self._targets(), self.meter)
        self._resolve()
        *others, last = self._addresses
        for family, address in others:
            try:
                return self._connected_to(family, address, min(self.meter.wait_seconds(), CONNECT_SHARE_SECONDS))
            except OSError:
                continue
        return self._connected_to(*last, min(self.meter.wait_seconds(), CONNECT_SECONDS))

    def _resolve(self) -> None:
        """Look the host up, once."""
        self._addresses = self._addresses or resolve(
            self._host, self._port, private_ok=self._private_ok, resolver=self._resolver
        )

    def _targets(self) -> list[str]:
        """Return what the proxy is told: checked addresses, or the name where the proxy resolves names itself."""
        hosts = [self._host]
        if not self._is_resolved_by_proxy:
            self._resolve()
            hosts = [str(address[0]) for _, address in self._addresses]
        return [f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}" for host in hosts]

    def _connected_to(self, family: socket.AddressFamily, address: tuple[Any, ...], seconds: float) -> socket.socket:
        candidate = socket.socket(family, socket.SOCK_STREAM)
        try:
            candidate.settimeout(seconds)
            candidate.connect(address)
            self._check_peer(candidate)
            candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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


def _remote_error(error: OSError | ValueError) -> GitError:
    return RemoteTimeout() if isinstance(error, TimeoutError) else RemoteUnreachable()
