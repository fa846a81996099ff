"""Connects through an HTTP proxy: parses its URL and opens a tunnel (CONNECT, RFC 9110, section 9.3.6).

No text from the proxy is stored or shown.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from coderepos.exceptions import GitError, ProxyUnavailable, RemoteProtocolError, RemoteTimeout, RemoteUnreachable
from coderepos.git.credentials import basic_authorization
from coderepos.git.network_policy import Proxy
from coderepos.git.transport.addresses import MAX_ADDRESSES, look_up
from coderepos.git.transport.http_reader import HttpReader, ResponseHead
from coderepos.git.transport.meter import Meter
from coderepos.hidden import HiddenBytes, HiddenText

CONNECT_SECONDS: Final = 10.0
"""Longest wait for a connection to the proxy."""

_URL: Final = re.compile(
    r"http://(?:(?P<username>[!-~]*?)(?::(?P<password>[!-~]*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):(?P<port>[0-9]{1,5})/?\Z"
)


def parse_proxy_url(text: str) -> Proxy:
    """Parse a URL ``http://[user:password@]host:port``; user and password are percent-encoded where needed.

    :raises ValueError: it has another form; the message contains no part of it.
    """
    username, password, host, port = _parts(text)
    if not 0 < int(port) < 65_536:
        raise ValueError("It must look like http://host:port or http://user:password@host:port.")
    if ":" in username:
        raise ValueError("A user name must not contain a colon (RFC 7617).")
    return Proxy(host=host.strip("[]").lower(), port=int(port), username=username, password=password)


def _parts(text: str) -> tuple[str, str, str, str]:
    """Return user name, password, host and port; the port is 0 if the URL has another form."""
    found = _URL.match(text)
    if found is None:
        return "", "", "", "0"
    username, password = (HiddenText(unquote(found[name] or "")) for name in ("username", "password"))
    return username, password, found["host"], found["port"]


class _NoResponse(Exception):
    """The proxy sent no valid response."""


def open_tunnel(proxy: Proxy, targets: Iterable[str], meter: Meter) -> socket.socket:
    """Return a connection through the proxy to the first of ``targets`` that it can reach.

    :param targets: each as ``host:port``.
    :raises ProxyUnavailable: the proxy sends no valid response, or refuses its credentials.
    :raises RemoteUnreachable: the proxy cannot reach, or does not allow, any of the targets.
    :raises RemoteTimeout: it takes too long.
    """
    failure: GitError = RemoteUnreachable(reason="proxy")
    for target in targets:
        connected = _connect(proxy, meter)
        try:
            head = _request_tunnel(connected, proxy, target, meter)
            if 200 <= head.status < 300:
                return connected
            if head.status == 407:
                raise ProxyUnavailable(reason="proxy credentials")
            failure = RemoteUnreachable(reason="proxy")
        except _NoResponse:
            # Some proxies hang up where others would respond that they cannot reach a target.
            failure = ProxyUnavailable(reason="proxy answer")
        except BaseException:
            connected.close()
            raise
        connected.close()
    raise failure


def _connect(proxy: Proxy, meter: Meter) -> socket.socket:
    """Connect to the proxy, whose address is not checked: the settings name it."""
    try:
        addresses = [(info[0], info[4]) for info in look_up(proxy.host, proxy.port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        addresses = []
    for family, address in addresses[:MAX_ADDRESSES]:
        connected = socket.socket(family, socket.SOCK_STREAM)
        try:
            connected.settimeout(min(meter.wait_seconds(), CONNECT_SECONDS))
            connected.connect(address)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            connected.close()
        except BaseException:
            connected.close()
            raise
        else:
            return connected
    raise ProxyUnavailable(reason="proxy connection")


def _request_tunnel(connected: socket.socket, proxy: Proxy, target: str, meter: Meter) -> ResponseHead:
    """Send the CONNECT request, and return the head of the response.

    :raises _NoResponse: there is no valid one.
    """

    def receive_into(buffer: memoryview) -> int:
        connected.settimeout(meter.wait_seconds())
        size = connected.recv_into(buffer)
        meter.received(size)
        return size

    reader = HttpReader(receive_into, meter.received)
    try:
        connected.settimeout(meter.wait_seconds())
        connected.sendall(_request(proxy, target))
        head = reader.head()
    except TimeoutError:
        raise RemoteTimeout from None
    except (OSError, RemoteProtocolError, RemoteUnreachable):
        raise _NoResponse from None
    if reader.has_unread and 200 <= head.status < 300:
        # In TLS the client speaks first, so only the proxy can have sent this.
        raise _NoResponse
    return head


def _request(proxy: Proxy, target: str) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", "User-Agent: git/coderepos"]
    if proxy.username or proxy.password:
        lines.append(HiddenText(f"Proxy-Authorization: {basic_authorization(proxy.username, proxy.password)}"))
    return HiddenBytes("\r\n".join([*lines, "", ""]).encode("ascii"))
