"""Which hosts may be connected to, and how: the network settings as the engine takes them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """An HTTP proxy and the credentials for it."""

    host: str
    port: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPolicy:
    """The rules for connections; the fields mean what the settings of the same names do."""

    allowed_hosts: tuple[str, ...] = ()
    """``host`` or ``host:port``, with ``*.`` as wildcard; empty allows every public host."""

    private_hosts: tuple[str, ...] = ()
    """``host`` or ``host:port`` that may resolve to private or loopback addresses."""

    insecure_http_hosts: tuple[str, ...] = ()
    """``host:port`` that may be reached over plain ``http``."""

    ca_bundle: str | None = None
    """PEM file that replaces the system's certificate authorities."""

    proxy: Proxy | None = None
    """Proxy for all ``https`` hosts except :attr:`direct_hosts`."""

    proxy_resolved_hosts: tuple[str, ...] = ()
    """``host`` or ``host:port``, with ``*.`` as wildcard, whose names the proxy resolves instead of this machine."""

    direct_hosts: tuple[str, ...] = ()
    """``host`` or ``host:port``, with ``*.`` as wildcard, that are reached without the proxy."""
