"""Types of the values in ``settings.CODEREPOS``: no other check looks at values of which this one complains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from django.conf import settings
from django.core import checks

from coderepos.checks.messages import error
from coderepos.conf import conf

NUMBERS: Final = {
    "MAX_REPO_SIZE_MB": (0.1, 10_000),
    "GIT_CLONE_TIMEOUT": (1, 86_400),
    "PROBE_TIMEOUT": (1, 3_600),
    "SANDBOX_MIN_LEVEL": (1, 3),
    "CLONE_MAX_RETRIES": (0, 10),
}
KEY_LISTS: Final = ("DECRYPT_ONLY_MASTER_KEYS", "DECRYPT_ONLY_KMS_KEY_IDS")
LISTS: Final = (
    *KEY_LISTS,
    "ALLOWED_GIT_HOSTS",
    "PRIVATE_GIT_HOSTS",
    "INSECURE_HTTP_HOSTS",
    "PROXY_RESOLVED_HOSTS",
    "NO_PROXY_HOSTS",
)
TEXTS: Final = (
    "SANDBOX_BASE_PATH",
    "ACCESS_POLICY",
    "CONNECT_RATE_PER_USER",
    "CONNECT_RATE_PER_PROJECT",
    "NODE_ID",
    "QUEUE_CLUSTER",
)
OPTIONAL_TEXTS: Final = ("SANDBOX_GROUP", "GIT_CA_BUNDLE", "PRIMARY_KEY")


def is_dict() -> bool:
    """Return whether there is a dict to look at."""
    return isinstance(getattr(settings, "CODEREPOS", {}), dict)


def is_list(name: str) -> bool:
    """Return whether the value of a key is a list, or anything that is read like one."""
    return isinstance(getattr(conf, name), Sequence) and not isinstance(getattr(conf, name), str | bytes)


def are_usable() -> bool:
    """Return whether values can be compared; :func:`~coderepos.checks.check_settings` says what is wrong if not."""
    return is_dict() and not any(wrong_types())


def wrong_types() -> Iterator[checks.CheckMessage]:
    """Yield an error for every value of a wrong type or out of its range."""
    for name, (least, most) in NUMBERS.items():
        value = getattr(conf, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            yield error(2, f"CODEREPOS[{name!r}] must be a number from {least} to {most}.", f"It is {value!r}.")
    for name in LISTS:
        # No variable: some of these are keys, and reporters print variables.
        if not is_list(name) or not all(issubclass(kind, str) for kind in map(type, getattr(conf, name))):
            yield error(2, f"CODEREPOS[{name!r}] must be a list of texts.", "Write ['one', 'two'], also for one item.")
    for name in TEXTS:
        if not isinstance(getattr(conf, name), str):
            yield error(2, f"CODEREPOS[{name!r}] must be a text.", "Write it in quotes.")
    for name in OPTIONAL_TEXTS:
        if getattr(conf, name) is not None and not isinstance(getattr(conf, name), str):
            yield error(2, f"CODEREPOS[{name!r}] must be a text or None.", "Write it in quotes.")
