"""The way through an HTTP proxy: its URL, and a tunnel to one address (CONNECT, RFC 9110, section 9.3.6).

Imported where a proxy is set. No text of the proxy's is stored or shown.
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
from coderepos.git.transport.http_reader import Head, HttpReader
from coderepos.git.transport.meter import Meter
from coderepos.hidden import HiddenBytes, HiddenText

CONNECT_SECONDS: Final = 10.0
"""Longest wait for the proxy to take a connection."""

_URL: Final = re.compile(
    r"http://(?:(?P<username>[!-~]*?)(?::(?P<password>[!-~]*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):(?P<port>[0-9]{1,5})/?\Z"
)


def parse_proxy_url(text: str) -> Proxy:
    """Return the proxy of a URL ``http://[user:password@]host:port``, user and password percent-encoded where needed.

    :raises ValueError: it looks different; the message holds nothing of it.
    """
    username, password, host, port = _parts(text)
    if not 0 < int(port) < 65_536:
        raise ValueError("It must look like http://host:port or http://user:password@host:port.")
    if ":" in username:
        raise ValueError("A user name has no colon (RFC 7617).")
    return Proxy(host=host.strip("[]").lower(), port=int(port), username=username, password=password)


def _parts(text: str) -> tuple[str, str, str, str]:
    """Return user name, password, host and port, the port 0 where the URL looks different."""
    found = _URL.match(text)
    if found is None:
        return "", "", "", "0"
    username, password = (HiddenText(unquote(found[name] or "")) for name in ("username", "password"))
    return username, password, found["host"], found["port"]


class _NoAnswer(Exception):
    """The proxy said nothing, or what is no answer."""


def tunnelled(proxy: Proxy, targets: Iterable[str], meter: Meter) -> socket.socket:
    """Return a connection through the proxy to the first of ``targets`` that it reaches.

    :param targets: each as ``host:port``.
    :raises ProxyUnavailable: the proxy does not answer as it must, or does not take its credentials.
    :raises RemoteUnreachable: it reaches none, or may not.
    :raises RemoteTimeout: it takes too long.
    """
    failure: GitError = RemoteUnreachable(reason="proxy")
    for target in targets:
        connected = _connected_to(proxy, meter)
        try:
            head = _asked(connected, proxy, target, meter)
            if 200 <= head.status < 300:
                return connected
            if head.status == 407:
                raise ProxyUnavailable(reason="proxy credentials")
            failure = RemoteUnreachable(reason="proxy")
        except _NoAnswer:
            # Some proxies hang up where others would say that they do not reach a target.
            failure = ProxyUnavailable(reason="proxy answer")
        except BaseException:
            connected.close()
            raise
        connected.close()
    raise failure


def _connected_to(proxy: Proxy, meter: Meter) -> socket.socket:
    """Return a connection to the proxy, whose address the settings answer for."""
    try:
        addresses = [(answer[0], answer[4]) for answer in look_up(proxy.host, proxy.port, type=socket.SOCK_STREAM)]
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


def _asked(connected: socket.socket, proxy: Proxy, target: str, meter: Meter) -> Head:
    """Ask for a tunnel, and return the head of the answer.

    :raises _NoAnswer: there is none that could be understood.
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
        raise _NoAnswer from None
    if reader.has_rest and 200 <= head.status < 300:
        # The Git host speaks second in TLS, so that nobody but the proxy can have said this.
        raise _NoAnswer
    return head


def _request(proxy: Proxy, target: str) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", "User-Agent: git/coderepos"]
    if proxy.username or proxy.password:
        lines.append(HiddenText(f"Proxy-Authorization: {basic_authorization(proxy.username, proxy.password)}"))
    return HiddenBytes("\r\n".join([*lines, "", ""]).encode("ascii"))
