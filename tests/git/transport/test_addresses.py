from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderepos.exceptions import RemoteUnreachable
from coderepos.git.transport.addresses import MAX_ADDRESSES, address_allowed, resolve

SPECIAL = """
0.0.0.0 0.255.255.255 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.255 168.63.129.16 169.254.169.254
169.254.0.1 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.9 192.0.0.192 192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1
192.168.0.1 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1
255.255.255.255
:: ::1 ::7f00:1 ::ffff:7f00:1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b::10.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1
100:0:0:1::1 2001::1 2001:1::1 2001:2::1 2001:3::1 2001:4:112::1 2001:10::1 2001:20::1 2001:30::1 2001:db8::1
2002:7f00:1:: 2002:808:808:: 2620:4f:8000::1 3fff::1 3fff:fff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254
fe80::1 fe80::1%lo fec0::1 ff02::1 ff0e::1
"""

PUBLIC = """
1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 140.82.121.3 168.63.129.15 168.63.129.17
169.253.0.1 172.15.255.255 172.32.0.1 192.0.1.1 192.169.0.1 198.17.0.1 198.20.0.1 223.255.255.255
2001:200::1 2001:4860:4860::8888 2606:4700:4700::1111 2a01:4f8::1 64:ff9b::8.8.8.8 3ffe::1
"""


@pytest.mark.parametrize("text", SPECIAL.split())
def test_special_addresses_are_blocked(text: str) -> None:
    """Every special-purpose, translated and metadata address is refused."""
    assert not address_allowed(text, private_ok=False)


@pytest.mark.parametrize("text", PUBLIC.split())
def test_public_addresses_pass(text: str) -> None:
    """Public addresses, neighbours of the special ranges among them, may be connected to."""
    assert address_allowed(text, private_ok=False)
    assert address_allowed(text, private_ok=True)


@pytest.mark.parametrize("text", SPECIAL.split())
def test_listed_hosts_open_private_and_loopback_alone(text: str) -> None:
    """A host from the settings may resolve to private and loopback addresses, never to metadata or multicast."""
    private = {
        "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.255", "172.16.0.1", "172.31.255.255",
        "192.168.0.1", "::1", "fc00::1",
    }  # fmt: skip

    assert address_allowed(text, private_ok=True) == (text in private)


def test_metadata_inside_private_ranges_stays_blocked() -> None:
    """Cloud metadata services in private ranges are not opened by listing a host."""
    assert not any(
        address_allowed(text, private_ok=True) for text in ("100.100.100.200", "fd00:ec2::254", "fd20:ce::254")
    )


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "1.2.3.4/32", "1.2.3.4 ", "01.2.3.4"])
def test_what_is_no_address_is_blocked(text: str) -> None:
    """Only the usual spelling of an address is one."""
    assert not address_allowed(text, private_ok=True)


@given(st.ip_addresses())
def test_nothing_private_passes(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """The table is never more generous than Python's own view of private, multicast and reserved addresses."""
    dubious = (
        address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    ) or address.is_unspecified

    if dubious and address not in ipaddress.ip_network("64:ff9b::/96"):
        assert not address_allowed(str(address), private_ok=False)


def answers(*addresses: str) -> Any:
    def resolver(host: str, port: int, **options: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return resolver


def test_one_bad_answer_spoils_all() -> None:
    """A name with a public and a private address is refused as a whole."""
    with pytest.raises(RemoteUnreachable):
        resolve("host", 443, private_ok=False, resolver=answers("8.8.8.8", "10.0.0.1"))


def test_only_the_first_answers_are_tried() -> None:
    """A name with very many addresses does not keep us busy."""
    found = resolve("host", 443, private_ok=False, resolver=answers(*["8.8.8.8"] * 100))

    assert found == [(socket.AF_INET, ("8.8.8.8", 443))] * MAX_ADDRESSES


@pytest.mark.parametrize("error", [socket.gaierror(-2, "unknown"), UnicodeError("label too long"), OSError(24, "x")])
def test_unresolvable_names_look_like_blocked_ones(error: Exception) -> None:
    """A name that does not resolve gives the same error as one that may not be asked."""

    def resolver(*arguments: object, **options: object) -> Any:
        raise error

    with pytest.raises(RemoteUnreachable) as unresolvable:
        resolve("host", 443, private_ok=False, resolver=resolver)
    with pytest.raises(RemoteUnreachable) as blocked:
        resolve("127.0.0.1", 443, private_ok=False)
    with pytest.raises(RemoteUnreachable):
        resolve("host", 443, private_ok=False, resolver=answers())

    assert (str(unresolvable.value), unresolvable.value.fields) == (str(blocked.value), blocked.value.fields)
