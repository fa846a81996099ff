"""The settings of the app: one dict ``CODEREPOS`` in the host's settings, read live through :data:`conf`.

Field defaults are the defaults, field docstrings the documentation. Bad values are found by the system checks, never at
import.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

DEFAULT_PROJECT_MODEL: Final = "coderepos_projects.Project"
_LABEL: Final = re.compile(r"[^\W\d]\w*\.[^\W\d]\w*\Z")


class ConfigurationError(ImproperlyConfigured):
    """A setting of the app has a value that it cannot work with."""


@dataclass(frozen=True)
class AppSettings:
    """Typed, live view of ``settings.CODEREPOS``; ``override_settings`` works without any signal."""

    MAX_REPO_SIZE_MB: float = 100
    """Largest repository, in MB of 10^6 bytes: pack bytes on the wire, and what a published version takes on disk."""

    GIT_CLONE_TIMEOUT: float = 300
    """Seconds of wall clock for one clone attempt."""

    PROBE_TIMEOUT: float = 20
    """Seconds for the whole probe; keep the web server's own timeout above it."""

    SANDBOX_BASE_PATH: str = "/tmp/repos"  # noqa: S108  the documented default; its owner and mode are checked before use
    """Root of all sandboxes: created 0700, owner checked; a symlink, a foreign owner, a foreign marker, or a folder
    above it that others may change is refused. One that was marked before is never made anew."""

    SANDBOX_GROUP: str | None = None
    """Name of a group that may read sandboxes."""

    SANDBOX_MIN_LEVEL: int = 1
    """Refuse to run below this isolation level (1, 2 or 3)."""

    MASTER_ENCRYPTION_KEY: str | None = None
    """Base64 of the 32-byte local master key."""

    DECRYPT_ONLY_MASTER_KEYS: Sequence[str] = ()
    """Further local keys that open but never seal, before and after a rotation."""

    KMS_KEY_ID: str | None = None
    """URI that names KMS provider and key, or a bare AWS ARN."""

    DECRYPT_ONLY_KMS_KEY_IDS: Sequence[str] = ()
    """Further KMS keys that open but never seal."""

    PRIMARY_KEY: str | None = None
    """``local`` or ``kms``: which key seals; needed only where both are given."""

    CLONE_MAX_RETRIES: int = 3
    """Retries after the first attempt, at least 60, 120 and 240 s apart."""

    ALLOWED_GIT_HOSTS: Sequence[str] = ()
    """``host`` or ``host:port``, ``*.`` allowed; empty means any public host. The port is 443 unless listed here."""

    PRIVATE_GIT_HOSTS: Sequence[str] = ()
    """``host`` or ``host:port`` that may resolve to private or loopback addresses."""

    INSECURE_HTTP_HOSTS: Sequence[str] = ()
    """``host:port`` for which plain ``http`` is accepted; for demos and tests."""

    GIT_CA_BUNDLE: str | None = None
    """PEM file of certificate authorities for hosts with a private one; the system store when absent."""

    HTTPS_PROXY_URL: str | None = None
    """``http://[user:password@]host:port`` through which ``https`` hosts are asked; proxies of the environment are not.

    It may be a :class:`coderepos.hidden.HiddenText`, which error reports do not show.
    """

    PROXY_RESOLVED_HOSTS: Sequence[str] = ()
    """``host`` or ``host:port``, ``*.`` allowed, of which the proxy is told the name, not an address checked here."""

    NO_PROXY_HOSTS: Sequence[str] = ()
    """``host`` or ``host:port``, ``*.`` allowed, that are not asked through the proxy."""

    ACCESS_POLICY: str = "coderepos.access.MembershipPolicy"
    """Dotted path of the class that says who may do what in which project."""

    CONNECT_RATE_PER_USER: str = "60/hour"
    """How often one user may connect, as in Django REST Framework's throttles."""

    CONNECT_RATE_PER_PROJECT: str = "200/hour"
    """How often repositories may be connected in one project."""

    QUEUE_CLUSTER: str = ""
    """Cluster of django-q2 that works for us, an entry of ``Q_CLUSTER["ALT_CLUSTERS"]``; the host's own if empty."""

    NODE_ID: str = ""
    """Stable name of this machine; the host name when empty."""

    def __repr__(self) -> str:
        """Return the name alone: the values are those of the settings, keys among them."""
        return "AppSettings(...)"

    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> Any:
            default = super().__getattribute__(name)
            if not name.isupper():
                return default
            return getattr(settings, "CODEREPOS", {}).get(name, default)

    @property
    def node_id(self) -> str:
        """The stable name of this machine."""
        return self.NODE_ID or socket.gethostname()

    @property
    def max_repo_size_bytes(self) -> int:
        """``MAX_REPO_SIZE_MB`` in bytes."""
        return round(self.MAX_REPO_SIZE_MB * 10**6)


KEYS: Final = frozenset(field.name for field in fields(AppSettings))
"""Every key that ``settings.CODEREPOS`` may hold."""

conf: Final = AppSettings()


def project_model_label() -> str:
    """Return the label of the host's project model, such as ``shop.Project``.

    What is no label at all gives the default: a system check says so, which an error at import would not let it.
    """
    named = getattr(settings, "CODEREPOS_PROJECT_MODEL", DEFAULT_PROJECT_MODEL)
    return named if isinstance(named, str) and _LABEL.match(named) else DEFAULT_PROJECT_MODEL
