"""Decides which IP addresses may be connected to, and resolves host names to such addresses.

The table is our own, since :attr:`ipaddress.IPv4Address.is_global` differs between versions of Python and allows
multicast, translated (NAT64, 6to4) and cloud metadata addresses. Sources: the IANA registries of special-purpose IPv4
and IPv6 addresses (RFC 6890) and the documentation of the cloud providers.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final

from coderepos.exceptions import RemoteUnreachable

Resolver = Callable[..., Iterable[tuple[Any, ...]]]

_SPECIAL_V4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared, carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's wire server
        "169.254.0.0/16",  # link-local, cloud metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)

_GLOBAL_UNICAST_V6: Final = IPv6Network("2000::/3")

_SPECIAL_V6: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # IETF protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""Well-known prefix (RFC 6052): networks with IPv6 alone reach every public IPv4 host through it."""

_PRIVATE: Final = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv6Network("::1/128"),
    IPv6Network("fc00::/7"),
)

_METADATA: Final = (
    IPv4Network("100.100.100.200/32"),  # Alibaba Cloud
    IPv6Network("fd00:ec2::/32"),  # Amazon
    IPv6Network("fd20:ce::254/128"),  # Google
)
"""Metadata services inside private ranges, which listing a host does not allow."""

MAX_ADDRESSES: Final = 4
"""Most addresses of one name that are tried."""


def look_up(host: str, port: int, **options: Any) -> Iterable[tuple[Any, ...]]:
    """Resolve a host with :func:`socket.getaddrinfo`.

    The host is passed as bytes: for text Python loads its tables for international names, which no Git URL may have.
    """
    return socket.getaddrinfo(host.encode("ascii"), port, **options)


def address_allowed(ip_text: str, *, private_ok: bool) -> bool:
    """Return whether this address may be connected to.

    :param private_ok: whether private and loopback addresses are allowed too, because the settings list the host.
    """
    try:
        address = ipaddress.ip_address(ip_text)
    except ValueError:
        return False
    if private_ok and _within(address, _PRIVATE) and not _within(address, _METADATA):
        return True
    if isinstance(address, IPv4Address):
        return not _within(address, _SPECIAL_V4)
    if address in _NAT64:
        return not _within(IPv4Address(int(address) & 0xFFFFFFFF), _SPECIAL_V4)
    return address.scope_id is None and address in _GLOBAL_UNICAST_V6 and not _within(address, _SPECIAL_V6)


def resolve(
    host: str, port: int, *, private_ok: bool, resolver: Resolver = look_up
) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """Return families and numeric socket addresses of ``host``, at most :data:`MAX_ADDRESSES`.

    :raises RemoteUnreachable: the name has no address, or one that may not be connected to.
    """
    try:
        found = list(resolver(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        raise RemoteUnreachable from None
    if not found or not all(address_allowed(str(info[4][0]), private_ok=private_ok) for info in found):
        raise RemoteUnreachable
    return [(info[0], info[4]) for info in found[:MAX_ADDRESSES]]


def _within(address: IPv4Address | IPv6Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
