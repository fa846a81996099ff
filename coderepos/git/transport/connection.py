"""A TCP or TLS connection that is pinned to checked addresses and counts what arrives on it."""

from __future__ import annotations

import socket
import ssl
from typing import Any, Final

from coderepos.exceptions import GitError, RemoteTimeout, RemoteUnreachable
from coderepos.git.network_policy import NetworkPolicy
from coderepos.git.transport.addresses import Resolver, address_allowed, resolve
from coderepos.git.transport.meter import Meter
from coderepos.git.transport.proxy import open_tunnel
from coderepos.git.transport.tls import start_tls, tls_context
from coderepos.git.url import GitUrl, is_resolved_by_proxy, may_be_private, proxy_of

CONNECT_SECONDS: Final = 10.0
"""Longest wait for a connection to one address."""

CONNECT_SHARE_SECONDS: Final = 3.0
"""Longest wait for a connection to one address while there are others to try."""


class PinnedConnection:
    """Resolves its host once, connects to the addresses found then, and counts received bytes in a meter.

    Exceptions of sockets and TLS are translated by their type alone, so that no remote text gets into an error.
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
        """Whether this side has opened it and not closed it since."""
        return self._socket is not None

    def open(self) -> None:
        """Connect.

        :raises RemoteUnreachable: there is no address that may be connected to and accepts a connection.
        :raises RemoteCertificate: the certificate cannot be verified.
        :raises RemoteTimeout: it takes too long.
        """
        try:
            self._socket = self._connect_tls() if self._is_tls else self._connect()
        except (OSError, ValueError) as error:
            raise _remote_error(error) from None

    def send(self, data: bytes) -> None:
        """Send all of ``data``.

        :raises RemoteUnreachable: the connection broke.
        :raises RemoteTimeout: it takes too long.
        :raises RemoteTooSlow: the host takes it too slowly.
        """
        try:
            self._ready().sendall(data)
        except OSError as error:
            raise self._silence_or(error) from None

    def receive_into(self, buffer: memoryview) -> int:
        """Wait for the next bytes and return how many were put into ``buffer``; none at the end of the connection.

        :raises RemoteUnreachable: the connection broke.
        :raises RemoteTimeout: it takes too long.
        :raises RemoteTooSlow: the host is silent for too long.
        :raises GitError: more arrived than the meter allows.
        """
        try:
            size = self._ready().recv_into(buffer)
        except OSError as error:
            raise self._silence_or(error) from None
        self.meter.arrived(size)
        return size

    def close(self) -> None:
        """Close it; unread bytes are discarded."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ready(self) -> socket.socket:
        """Return the socket, with the timeout that applies to the next call."""
        if self._socket is None:
            raise RemoteUnreachable
        seconds = self.meter.silence_seconds()
        if seconds != self._timeout_seconds:
            self._socket.settimeout(seconds)
            self._timeout_seconds = seconds
        return self._socket

    def _silence_or(self, error: OSError) -> GitError:
        return self.meter.silence_error() if isinstance(error, TimeoutError) else _remote_error(error)

    def _connect_tls(self) -> socket.socket:
        connected = self._connect()
        try:
            self._tls_context = self._tls_context or tls_context(self._ca_bundle)
            connected.settimeout(self.meter.wait_seconds())
            return start_tls(connected, self._tls_context, self._host)
        except BaseException:
            connected.close()
            raise

    def _connect(self) -> socket.socket:
        self._timeout_seconds = 0.0
        if self._proxy is not None:
            return open_tunnel(self._proxy, self._targets(), self.meter)
        self._resolve()
        *others, last = self._addresses
        for family, address in others:
            try:
                return self._connect_to(family, address, min(self.meter.wait_seconds(), CONNECT_SHARE_SECONDS))
            except OSError:
                continue
        return self._connect_to(*last, min(self.meter.wait_seconds(), CONNECT_SECONDS))

    def _resolve(self) -> None:
        """Resolve the host, once."""
        self._addresses = self._addresses or resolve(
            self._host, self._port, private_ok=self._private_ok, resolver=self._resolver
        )

    def _targets(self) -> list[str]:
        """Return the targets for the proxy: checked addresses, or the name if the proxy is to resolve it."""
        hosts = [self._host]
        if not self._is_resolved_by_proxy:
            self._resolve()
            hosts = [str(address[0]) for _, address in self._addresses]
        return [f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}" for host in hosts]

    def _connect_to(self, family: socket.AddressFamily, address: tuple[Any, ...], seconds: float) -> socket.socket:
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
        """Check the address once more; a public address of this machine itself counts as private."""
        peer = str(connected.getpeername()[0])
        own = peer == connected.getsockname()[0]
        if not address_allowed(peer, private_ok=self._private_ok) or (own and not self._private_ok):
            raise RemoteUnreachable


def _remote_error(error: OSError | ValueError) -> GitError:
    return RemoteTimeout() if isinstance(error, TimeoutError) else RemoteUnreachable()
