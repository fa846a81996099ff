"""What the text of a repository's URL means under the settings of this installation."""

from __future__ import annotations

from functools import lru_cache

from coderepos.conf import ConfigurationError, conf
from coderepos.crypto.secret import Secret
from coderepos.git.transport.proxy import parse_proxy_url
from coderepos.git.url import GitUrl, origin_of
from coderepos.git.wire import NetworkPolicy, Proxy
from coderepos.hidden import HiddenText


def network_policy() -> NetworkPolicy:
    """Return which hosts the settings allow, and by which way they are asked.

    :raises ConfigurationError: ``HTTPS_PROXY_URL`` is not a proxy's.
    """
    return NetworkPolicy(
        allowed_hosts=tuple(conf.ALLOWED_GIT_HOSTS),
        private_hosts=tuple(conf.PRIVATE_GIT_HOSTS),
        insecure_http_hosts=tuple(conf.INSECURE_HTTP_HOSTS),
        ca_bundle=conf.GIT_CA_BUNDLE,
        proxy=_proxy_and_password(HiddenText(conf.HTTPS_PROXY_URL))[0] if conf.HTTPS_PROXY_URL else None,
        proxy_resolved_hosts=tuple(conf.PROXY_RESOLVED_HOSTS),
        direct_hosts=tuple(conf.NO_PROXY_HOSTS),
    )


@lru_cache(maxsize=4)
def _proxy_and_password(text: HiddenText) -> tuple[Proxy, Secret]:
    """Return the proxy and its password, which logs are masked by for as long as it is kept here."""
    try:
        proxy = parse_proxy_url(text)
    except ValueError as error:
        raise ConfigurationError(f"CODEREPOS['HTTPS_PROXY_URL']: {error}") from None
    return proxy, Secret(proxy.password)


def has_origin(text: str, url: GitUrl) -> bool:
    """Return whether ``text`` names the scheme, host and port of ``url``; a text that is no usable URL does not."""
    try:
        return origin_of(text) == url.origin
    except ValueError:
        return False
