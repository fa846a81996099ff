"""What the text of a repository's URL means under the settings of this installation."""

from __future__ import annotations

from coderepos.conf import conf
from coderepos.git.messages import NetworkPolicy
from coderepos.git.url import GitUrl, origin_of


def network_policy() -> NetworkPolicy:
    """Return which hosts the settings allow."""
    return NetworkPolicy(
        allowed_hosts=tuple(conf.ALLOWED_GIT_HOSTS),
        private_hosts=tuple(conf.PRIVATE_GIT_HOSTS),
        insecure_http_hosts=tuple(conf.INSECURE_HTTP_HOSTS),
        ca_bundle=conf.GIT_CA_BUNDLE,
    )


def has_origin(text: str, url: GitUrl) -> bool:
    """Return whether ``text`` names the scheme, host and port of ``url``; a text that is no usable URL does not."""
    try:
        return origin_of(text) == url.origin
    except ValueError:
        return False
