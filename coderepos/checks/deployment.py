"""Checks of what is fine for a demo and a test but not in production: ``check --deploy``."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core import checks
from django.db import connections

from coderepos.checks.messages import warning
from coderepos.checks.types import are_usable
from coderepos.conf import conf
from coderepos.crypto.redaction import RedactingFilter
from coderepos.git.confinement.profiles import available_level
from coderepos.hidden import HiddenText
from coderepos.models import alias

TEMPORARY: Final = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108  nothing is written there
PER_PROCESS_CACHES: Final = (
    "django.core.cache.backends.locmem.LocMemCache",
    "django.core.cache.backends.dummy.DummyCache",
)
WAL: Final = b"\x02\x02"
"""Bytes 18 and 19 of an SQLite file in write-ahead mode (file format, "File format version numbers")."""


def check_deployment(**_: Any) -> list[checks.CheckMessage]:
    """Check what this machine and the host's settings offer."""
    if not are_usable():
        return []
    return [*_weak_secrecy(), *_weak_isolation(), *_temporary_root(), *_slow_sqlite(), *_lone_cache()]


def _weak_secrecy() -> Iterator[checks.CheckMessage]:
    if conf.INSECURE_HTTP_HOSTS:
        yield warning(40, "INSECURE_HTTP_HOSTS sends tokens unencrypted.", "Use https, with GIT_CA_BUNDLE.")
    has_password = isinstance(conf.HTTPS_PROXY_URL, str) and "@" in conf.HTTPS_PROXY_URL
    if has_password and not isinstance(conf.HTTPS_PROXY_URL, HiddenText):
        hint = "Write HiddenText('http://…') of coderepos.hidden."
        yield warning(44, "Error reports of Django show the password of HTTPS_PROXY_URL.", hint)
    handlers = [handler for logger in _loggers() for handler in logger.handlers]
    if not any(isinstance(one, RedactingFilter) for handler in handlers for one in handler.filters):
        hint = "Add coderepos.crypto.redaction.RedactingFilter to the handlers in LOGGING."
        yield warning(43, "No log handler masks access tokens.", hint)


def _weak_isolation() -> Iterator[checks.CheckMessage]:
    level = available_level()
    if level < conf.SANDBOX_MIN_LEVEL:
        hint = f"This kernel offers level {level}; lower SANDBOX_MIN_LEVEL or use a newer kernel."
        yield warning(42, "No clone can run: SANDBOX_MIN_LEVEL is above what this machine offers.", hint)
    elif level == 1:
        hint = "Use a kernel with Landlock (5.13) and seccomp, and a container profile that allows both."
        yield warning(47, "This machine offers isolation level 1 only: resource limits, and no confinement.", hint)


def _temporary_root() -> Iterator[checks.CheckMessage]:
    path = Path(conf.SANDBOX_BASE_PATH)
    if any(path.is_relative_to(directory) for directory in (*TEMPORARY, tempfile.gettempdir())):
        hint = "Set SANDBOX_BASE_PATH to a directory of its own on a lasting disk, such as /srv/repos."
        yield warning(45, f"SANDBOX_BASE_PATH is {str(path)!r}, in a directory that the system empties.", hint)


def _slow_sqlite() -> Iterator[checks.CheckMessage]:
    connection = connections[alias()]
    if connection.vendor != "sqlite":
        return
    options = connection.settings_dict["OPTIONS"]
    immediate = str(options.get("transaction_mode")).upper() == "IMMEDIATE"
    if not immediate or not ("wal" in str(options.get("init_command")).lower() or _has_wal(connection)):
        hint = 'Set OPTIONS to {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"}.'
        yield warning(46, "SQLite without WAL and immediate transactions: web and workers lock each other out.", hint)


def _has_wal(connection: Any) -> bool:
    try:
        with open(connection.settings_dict["NAME"], "rb") as file:
            return file.read(20)[18:] == WAL
    except OSError:
        return False


def _lone_cache() -> Iterator[checks.CheckMessage]:
    backend = settings.CACHES.get("default", {}).get("BACKEND")
    if backend in PER_PROCESS_CACHES:
        hint = "Use a cache that all processes share: Redis, Memcached, or the database."
        yield warning(48, f"CACHES['default'] is {backend}: each process counts CONNECT_RATE_… for itself.", hint)


def _loggers() -> Iterator[logging.Logger]:
    logger: logging.Logger | None = logging.getLogger("coderepos")
    while logger is not None:
        yield logger
        logger = logger.parent if logger.propagate else None
