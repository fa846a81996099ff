"""Settings from environment variables, by one grammar.

Lists are separated by commas, booleans are ``true``, ``false``, ``1`` or ``0``, databases are URLs. A variable that is
set to nothing counts as absent. Messages name the variable and never repeat its value, which may hold a password.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from coderepos.conf import SETTINGS
from coderepos.hidden import HiddenText
from coderepos.setting_types import Number, Secret, SettingType, Text, TextList

BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}

SQLITE_OPTIONS: Final = {
    "timeout": 20,
    "transaction_mode": "IMMEDIATE",
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
}
"""What lets a web server and a cluster of workers write to one file without "database is locked"."""


def text(name: str) -> str | None:
    """Return the variable as it is, or None when it is absent."""
    return os.environ.get(name) or None


def hidden(name: str) -> HiddenText | None:
    """Return the variable as a text that error reports do not show, or None when it is absent."""
    value = text(name)
    return None if value is None else HiddenText(value)


def boolean(name: str) -> bool | None:
    """Return the variable as a boolean, or None when it is absent."""
    value = text(name)
    if value is None:
        return None
    try:
        return BOOLEANS[value.strip().lower()]
    except KeyError:
        raise ImproperlyConfigured(f"{name} must be true, false, 1 or 0.") from None


def number(name: str, rule: Number | None = None) -> float | None:
    """Return the variable as a number, an ``int`` where it is written as one, or None when it is absent.

    :raises ImproperlyConfigured: it is none, or none that the rule allows.
    """
    value = text(name)
    if value is None:
        return None
    try:
        found = int(value) if value.strip().lstrip("+-").isdecimal() else float(value)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a number.") from None
    if not math.isfinite(found):
        raise ImproperlyConfigured(f"{name} must be a number.")
    if rule and (fault := rule.fault(lambda: found)):
        raise ImproperlyConfigured(f"{name} {fault.message}")
    return found


def items(name: str) -> list[str] | None:
    """Return the comma-separated variable without blanks around its items, or None when it is absent."""
    value = text(name)
    if value is None:
        return None
    return [item.strip() for item in value.split(",") if item.strip()]


def given(readers: Mapping[str, Callable[[str], object]]) -> dict[str, object]:
    """Read each variable by its reader and leave out the absent ones, so that defaults stay with their owner."""
    values = {name: read(name) for name, read in readers.items()}
    return {name: value for name, value in values.items() if value is not None}


def app_settings() -> dict[str, Any]:
    """Return the values of ``CODEREPOS`` that are given: each key is the variable of the same name."""
    return given({key: _reader(setting.kind) for key, setting in SETTINGS.items()})


def _reader(kind: SettingType) -> Callable[[str], object]:
    match kind:
        case Number():
            return number
        case TextList():
            return items
        case Secret():
            return hidden
        case Text():
            return text


def database(name: str, *, base: Path, default: str) -> dict[str, Any]:
    """Return the entry of ``DATABASES`` for the URL in the variable, or for ``default`` when it is absent.

    ``sqlite:///file`` is relative to ``base``, ``sqlite:////file`` is absolute. ``postgres://`` and ``postgresql://``
    take ``user:password@host:port/name``, each part percent-encoded where needed, and libpq's options in the query:
    ``?sslmode=require``, or ``?host=/run/postgresql`` for a socket.
    """
    try:
        url = urlsplit(text(name) or default)
        if url.fragment:
            raise ImproperlyConfigured(f"{name} holds a '#': percent-encode it as %23.")
        port = url.port or ""
    except ValueError:
        raise ImproperlyConfigured(f"{name} is not a valid URL.") from None
    path = unquote(url.path.removeprefix("/"))
    if not path:
        raise ImproperlyConfigured(f"{name} names no database.")

    match url.scheme:
        case "sqlite" if not url.netloc and not url.query:
            return {"ENGINE": "django.db.backends.sqlite3", "NAME": base / path, "OPTIONS": SQLITE_OPTIONS}
        case "postgres" | "postgresql":
            return {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": path,
                "USER": unquote(url.username or ""),
                "PASSWORD": unquote(url.password or ""),
                "HOST": unquote(url.hostname or ""),
                "PORT": port,
                "OPTIONS": dict(parse_qsl(url.query)),
                # A pool inside Django does not survive the fork of a worker; lasting connections do.
                "CONN_MAX_AGE": 60,
                "CONN_HEALTH_CHECKS": True,
            }
    raise ImproperlyConfigured(f"{name} must look like sqlite:///path or postgres://user:password@host/name.")


def kept_secret(path: Path, make: Callable[[], str]) -> str:
    """Return the secret in the file ``path``, made at the first call and readable by its owner alone."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(make())
            # Of two processes that start at once, the first link wins and both read the same secret.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(draft)
    return path.read_text()
