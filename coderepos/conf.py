"""The settings of the app: one dict ``CODEREPOS`` in the host's settings, read live through :data:`conf`.

To add a setting, write one field with :func:`setting`. The system checks, the environment variables of ``config/`` and
the test of ``docs/settings.md`` work from the fields. Bad values are found by the system checks, never at import.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from coderepos.setting_types import Hosts, Number, Rate, Secret, SettingType, Text, TextList

DEFAULT_PROJECT_MODEL: Final = "coderepos_projects.Project"
_LABEL: Final = re.compile(r"[^\W\d]\w*\.[^\W\d]\w*\Z")

_Value = TypeVar("_Value")


class ConfigurationError(ImproperlyConfigured):
    """A setting of the app has a value that it cannot work with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What is known of one key of ``settings.CODEREPOS`` besides its default."""

    kind: SettingType
    meaning: str
    """One sentence, with which the row in ``docs/settings.md`` begins."""


def setting(default: _Value, kind: SettingType, meaning: str) -> _Value:
    """Return the field of one key."""
    return field(default=default, metadata={"setting": Setting(kind=kind, meaning=meaning)})


@dataclass(frozen=True)
class AppSettings:
    """Typed, live view of ``settings.CODEREPOS``; ``override_settings`` works without any signal."""

    MAX_REPO_SIZE_MB: float = setting(
        100,
        Number(least=0.1, most=10_000, unit="MB of 10⁶ bytes"),
        "Largest repository in MB of 10⁶ bytes: pack bytes on the wire, and what a published version takes on disk.",
    )
    GIT_CLONE_TIMEOUT: float = setting(
        300, Number(least=1, most=86_400, unit="seconds"), "Seconds of wall clock for one clone attempt."
    )
    MIN_RATE_KB: float = setting(
        16,
        Number(least=0, most=100_000, unit="kB per second"),
        "Lowest speed of a Git host in kB (1,000 bytes) per second, below which an attempt is given up.",
    )
    PROBE_TIMEOUT: float = setting(
        20, Number(least=1, most=3_600, unit="seconds"), "Seconds for the whole probe of a connect call."
    )
    MAX_PROBES: int = setting(
        20,
        Number(least=1, most=10_000, unit="probes", whole=True),
        "Most calls that may test a repository against its Git host at once, in the whole site.",
    )
    SANDBOX_BASE_PATH: str = setting(
        "/tmp/repos",  # noqa: S108  the documented default; its owner and mode are checked before use
        Text(),
        "Root of all sandboxes, an absolute path.",
    )
    SANDBOX_GROUP: str | None = setting(None, Text(optional=True), "Name of a group that may read sandboxes.")
    SANDBOX_MAX_GB: float | None = setting(
        None,
        Number(least=0.001, most=1_000_000, unit="GB of 10⁹ bytes", optional=True),
        "GB of 10⁹ bytes that all clones on one machine may take together, including those being made.",
    )
    SANDBOX_FREE_GB: float | None = setting(
        None,
        Number(least=0, most=1_000_000, unit="GB of 10⁹ bytes", optional=True),
        "GB of 10⁹ bytes to keep free on the disk of the sandboxes; no clone starts that might take them.",
    )
    SANDBOX_MIN_LEVEL: int = setting(
        1,
        Number(least=1, most=3, unit="isolation level", whole=True),
        "Isolation level (1, 2 or 3) below which no clone runs.",
    )
    MASTER_ENCRYPTION_KEY: str | None = setting(None, Secret(), "Base64 of the 32-byte master key.")
    DECRYPT_ONLY_MASTER_KEYS: Sequence[str] = setting(
        (),
        TextList(secret=True),
        "Further master keys that open tokens but never seal, before and after a rotation.",
    )
    KMS_KEY_ID: str | None = setting(None, Secret(), "URI that names a KMS provider and key, or a bare AWS ARN.")
    DECRYPT_ONLY_KMS_KEY_IDS: Sequence[str] = setting(
        (), TextList(secret=True), "Further KMS keys that open tokens but never seal."
    )
    PRIMARY_KEY: str | None = setting(
        None, Text(optional=True), '`"local"` or `"kms"`: which key seals, where both are given.'
    )
    CLONE_MAX_RETRIES: int = setting(
        3,
        Number(least=0, most=10, unit="retries", whole=True),
        "Retries after the first attempt, at least 60, 120 and 240 s apart.",
    )
    ALLOWED_GIT_HOSTS: Sequence[str] = setting(
        (),
        Hosts(wildcards=True),
        "`host` or `host:port`, `*.example.org` for subdomains, of the only hosts that are allowed.",
    )
    PRIVATE_GIT_HOSTS: Sequence[str] = setting(
        (), Hosts(), "`host` or `host:port` that may resolve to private or loopback addresses."
    )
    INSECURE_HTTP_HOSTS: Sequence[str] = setting(
        (), Hosts(port_required=True), "`host:port` for which plain `http` is accepted."
    )
    GIT_CA_BUNDLE: str | None = setting(
        None, Text(optional=True), "PEM file of certificate authorities, for hosts with a private one."
    )
    HTTPS_PROXY_URL: str | None = setting(
        None,
        Secret(),
        "`http://[user:password@]host:port` of a proxy to `https` hosts and their platforms' APIs.",
    )
    PROXY_RESOLVED_HOSTS: Sequence[str] = setting(
        (),
        Hosts(wildcards=True),
        "`host` or `host:port`, `*.example.org` for subdomains, that the proxy resolves by itself.",
    )
    NO_PROXY_HOSTS: Sequence[str] = setting(
        (),
        Hosts(wildcards=True),
        "`host` or `host:port`, `*.example.org` for subdomains, that are asked directly.",
    )
    ACCESS_POLICY: str = setting(
        "coderepos.access.MembershipPolicy", Text(), "Dotted path of the class that decides who may do what."
    )
    LIMITS: str = setting(
        "coderepos.limits.default_limits",
        Text(),
        "Dotted path of the function that says what a project and a user may use, and how large its share is.",
    )
    RETENTION: str = setting(
        "coderepos.retention.keep_all",
        Text(),
        "Dotted path of the function that says which clones of a project may be removed automatically.",
    )
    CONNECT_RATE_PER_USER: str = setting("60/hour", Rate(), "How often one user may connect.")
    CONNECT_RATE_PER_PROJECT: str = setting(
        "200/hour", Rate(), "How often repositories may be connected in one project."
    )
    QUEUE: str = setting(
        "coderepos.queues.django_q.DjangoQ", Text(), "Dotted path of the class that notifies the workers."
    )
    QUEUE_BACKEND: str = setting(
        "default", Text(), "Alias in `TASKS` of the backend that works for this app, where `QUEUE` is Django's tasks."
    )
    QUEUE_NAME: str = setting(
        "", Text(), "Name of the queue that the workers of this app serve, where `QUEUE` is Django's tasks or Celery."
    )
    QUEUE_CLUSTER: str = setting(
        "",
        Text(),
        'Name of the django-q2 cluster that works for this app, an entry of `Q_CLUSTER["ALT_CLUSTERS"]`.',
    )
    PACK_STORAGE: str | None = setting(
        None,
        Text(optional=True),
        "Alias in Django's `STORAGES` of what keeps the packs of published versions beside the disks of machines.",
    )
    NODE_LOST_MINUTES: float = setting(
        10,
        Number(least=2, most=10_000, unit="minutes"),
        "Minutes of silence after which others take over the repositories of a machine, where there is `PACK_STORAGE`.",
    )
    NODE_ID: str = setting("", Text(), "Stable name of this machine; the host name where it is empty.")

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

    @property
    def sandbox_max_bytes(self) -> int | None:
        """``SANDBOX_MAX_GB`` in bytes."""
        return None if self.SANDBOX_MAX_GB is None else round(self.SANDBOX_MAX_GB * 10**9)

    @property
    def sandbox_free_bytes(self) -> int | None:
        """``SANDBOX_FREE_GB`` in bytes."""
        return None if self.SANDBOX_FREE_GB is None else round(self.SANDBOX_FREE_GB * 10**9)


SETTINGS: Final[Mapping[str, Setting]] = {field.name: field.metadata["setting"] for field in fields(AppSettings)}
"""Every key that ``settings.CODEREPOS`` may hold."""

conf: Final = AppSettings()


def imported(key: str) -> Any:
    """Return what the dotted path in a setting names, such as the function of ``LIMITS``.

    :raises ConfigurationError: there is nothing of that name, or its module can't be imported, for whatever reason.
    """
    path = getattr(conf, key)
    try:
        return import_string(path)
    except Exception as error:
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"CODEREPOS[{key!r}], {path!r}, cannot be imported: {reason}") from error


def project_model_label() -> str:
    """Return the label of the host's project model, such as ``shop.Project``.

    A value that is not a label gives the default: a system check reports it, which an error at import would prevent.
    """
    named = getattr(settings, "CODEREPOS_PROJECT_MODEL", DEFAULT_PROJECT_MODEL)
    return named if isinstance(named, str) and _LABEL.match(named) else DEFAULT_PROJECT_MODEL
