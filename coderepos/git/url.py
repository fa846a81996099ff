"""Parses Git URLs strictly, and checks them against the network policy.

A URL is accepted or refused by its text and the settings alone. Host names are not resolved here: addresses are checked
when the connection is opened (:mod:`coderepos.git.transport.connection`), so that a refusal does not reveal which hosts
and ports exist.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from coderepos.exceptions import InvalidGitUrl, UrlNotAllowed
from coderepos.git.network_policy import NetworkPolicy, Proxy

MAX_URL_BYTES: Final = 2_048

DEFAULT_PORTS: Final = {"https": 443, "http": 80}

_PRINTABLE: Final = re.compile(r"[!-~]+\Z")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SCP_LIKE: Final = re.compile(r"[^/:@]+@[^/:]+:")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")

_PATH_CHARACTERS: Final = "!$&'()*+,;=:@-._~"
"""Characters besides letters and digits that need no encoding in a path segment (RFC 3986, 3.3)."""

_PATH: Final = re.compile(r"(?:[A-Za-z0-9" + re.escape(_PATH_CHARACTERS) + r"/]|%[0-9A-Fa-f]{2})*\Z")
_AMBIGUOUS_ESCAPE: Final = re.compile(r"%(?:[01][0-9A-Fa-f]|7F|2E|2F|5C|25|3F|23)", re.IGNORECASE)
"""Escapes of control bytes and of ``. / \\ % ? #``, which servers and proxies interpret differently."""

_NO_HOST: Final = "The host of the Git URL is neither a host name nor an IP address in its usual spelling."


@dataclass(frozen=True, kw_only=True, slots=True)
class GitUrl:
    """A parsed URL."""

    text: str
    """The URL as the user wrote it."""

    scheme: str
    host: str
    """Lower-case name or canonical IP address, without brackets."""

    port: int
    path: str
    """Path as it is sent, with a leading slash and without a trailing one."""

    @property
    def authority(self) -> str:
        """``host``, or ``host:port`` if the port is not the default; IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port, even the default one: where a token may be sent."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def base(self) -> str:
        """The URL that is requested."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def key(self) -> str:
        """Normal form: equal for two URLs of the same repository; the case of the path is kept."""
        path = quote(unquote_to_bytes(self.path), safe="/" + _PATH_CHARACTERS)
        return f"{self.scheme}://{self.authority}{_without_suffix(path)}"


def parse_git_url(text: str, policy: NetworkPolicy) -> GitUrl:
    """Parse a URL and check that the settings allow its scheme, host and port.

    Paths must be unambiguous, so empty and dot segments are refused, and escapes that servers interpret differently.
    International host names must be in their ASCII form, since their mapping depends on the version of IDNA. Numbers
    other than dotted-quad addresses (``127.1``, ``0x7f000001``) are not accepted as host names.

    :raises InvalidGitUrl: the text is not a usable URL.
    :raises UrlNotAllowed: the settings do not allow the scheme, the host or the port.
    """
    url = read_git_url(text)
    _check_allowed(url, policy)
    return url


def origin_of(text: str) -> str:
    """Return scheme, host and port of a URL, such as ``https://github.com:443``, whatever the settings allow.

    :raises ValueError: the text is not a usable URL.
    """
    try:
        return read_git_url(text).origin
    except (InvalidGitUrl, UrlNotAllowed):
        raise ValueError("The text is not a usable Git URL.") from None


def read_git_url(text: str) -> GitUrl:
    """Parse a URL, whether or not the settings allow it.

    :raises InvalidGitUrl: the text is not a usable URL.
    :raises UrlNotAllowed: its scheme is neither ``https`` nor ``http``.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_URL_BYTES:
        raise InvalidGitUrl(f"The Git URL is longer than {MAX_URL_BYTES:,} bytes.")
    if any(map(str.isspace, text)):
        raise InvalidGitUrl("The Git URL contains white space; write %20 for a space in its path.")
    if not _PRINTABLE.match(text):
        raise InvalidGitUrl(
            "The Git URL contains a character other than printable ASCII; give an international host name in its"
            " xn-- form, and percent-encode other characters of the path."
        )
    scheme = _scheme(text)
    authority, slash, path = text[len(scheme) + len("://") :].partition("/")
    if "@" in authority:
        raise InvalidGitUrl("Give the Git URL without user name or password; the token has a field of its own.")
    if any(char in text for char in "?#\\"):
        raise InvalidGitUrl("A Git URL has no query, no fragment and no backslash.")
    host, port = _host_and_port(authority, DEFAULT_PORTS[scheme])
    return GitUrl(text=text, scheme=scheme, host=host, port=port, path=_path(slash + path))


def with_path(url: GitUrl, path: str) -> GitUrl:
    """Return the URL of another path on the same origin.

    :raises InvalidGitUrl: the path is not allowed in a Git URL.
    """
    other = replace(url, path=_path(path))
    if not path.startswith("/") or len(other.base) > MAX_URL_BYTES:
        raise InvalidGitUrl
    return replace(other, text=other.base)


def proxy_of(url: GitUrl, policy: NetworkPolicy) -> Proxy | None:
    """Return the proxy for this host, or ``None`` for a direct connection."""
    return policy.proxy if url.scheme == "https" and not _is_among(policy.direct_hosts, url) else None


def is_resolved_by_proxy(url: GitUrl, policy: NetworkPolicy) -> bool:
    """Return whether the proxy resolves the name of this host; an address is not a name."""
    is_name = ":" not in url.host and not url.host.rpartition(".")[2].isdigit()
    return is_name and _is_among(policy.proxy_resolved_hosts, url)


def may_be_private(url: GitUrl, policy: NetworkPolicy) -> bool:
    """Return whether this host may resolve to private or loopback addresses."""
    return any(_matches(entry, url.host, url.port) for entry in policy.private_hosts)


def _scheme(text: str) -> str:
    found = _SCHEME.match(text)
    if found is None:
        if _SCP_LIKE.match(text):
            raise UrlNotAllowed("Git over ssh is not supported; give the https URL of the repository.")
        raise InvalidGitUrl
    scheme = found[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise UrlNotAllowed("Only https URLs are supported; give the https URL of the repository.")
    return scheme


def _host_and_port(authority: str, default_port: int) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?", authority)
    if found is None:
        raise InvalidGitUrl("The host of the Git URL is not well formed.")
    port = default_port if found[2] is None else int(found[2])
    if not 0 < port < 65_536:
        raise InvalidGitUrl("The port of the Git URL is not between 1 and 65,535.")
    return _canonical_host(found[1].lower()), port


def _canonical_host(host: str) -> str:
    if host.startswith("["):
        try:
            address = ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise InvalidGitUrl(_NO_HOST) from None
        if address.scope_id is not None:
            raise InvalidGitUrl(_NO_HOST)
        return str(address)
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.match(label) for label in labels):
        raise InvalidGitUrl(_NO_HOST)
    if _NUMBER.match(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise InvalidGitUrl(_NO_HOST) from None
    return host


def _path(path: str) -> str:
    path = path.removesuffix("/")
    if not _PATH.match(path) or _AMBIGUOUS_ESCAPE.search(path):
        raise InvalidGitUrl("The path of the Git URL contains a character that is not allowed there.")
    segments = path.split("/")[1:]
    if not segments:
        raise InvalidGitUrl("The Git URL names a host but no repository.")
    if any(segment.partition(";")[0] in ("", ".", "..") for segment in segments) or not _without_suffix(path)[1:]:
        raise InvalidGitUrl("The path of the Git URL has an empty segment, or one of only dots.")
    return path


def _without_suffix(path: str) -> str:
    return path.removesuffix(".git").removesuffix("/")


def _check_allowed(url: GitUrl, policy: NetworkPolicy) -> None:
    if url.scheme == "http" and not _names_port(policy.insecure_http_hosts, url):
        raise UrlNotAllowed("Plain http is not allowed for this host; use https.")
    if policy.allowed_hosts and not _is_among(policy.allowed_hosts, url):
        raise UrlNotAllowed("This installation does not allow repositories from this host; ask its operator.")
    listed = _names_port(policy.allowed_hosts, url, wildcard=True) or _names_port(policy.private_hosts, url)
    if url.scheme == "https" and url.port != DEFAULT_PORTS["https"] and not listed:
        raise UrlNotAllowed("This installation does not allow this port for this host; ask its operator.")


def _is_among(entries: tuple[str, ...], url: GitUrl) -> bool:
    return any(_matches(entry, url.host, url.port, wildcard=True) for entry in entries)


def _names_port(entries: tuple[str, ...], url: GitUrl, *, wildcard: bool = False) -> bool:
    return any(
        _split_entry(entry)[1] is not None and _matches(entry, url.host, url.port, wildcard=wildcard)
        for entry in entries
    )


def _matches(entry: str, host: str, port: int, *, wildcard: bool = False) -> bool:
    """Return whether an entry of the settings, ``host`` or ``host:port``, matches this host and port.

    ``*.example.org`` matches every name below ``example.org``, but not that name itself.
    """
    entry_host, entry_port = _split_entry(entry)
    if entry_port not in (None, port):
        return False
    if wildcard and entry_host.startswith("*."):
        return host.endswith(entry_host[1:]) and host != entry_host[1:]
    return host == entry_host


def _split_entry(entry: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"(\[.*\]|[^:]*)(?::([0-9]+))?", entry.strip().lower())
    if found is None:
        return _canonical_address(entry), None
    return _canonical_address(found[1].strip("[]")), None if found[2] is None else int(found[2])


def _canonical_address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host
