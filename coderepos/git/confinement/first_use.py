"""Loads what Python and its libraries load at first use: a confined process can neither import nor link anything.

What a child imports at the top of its modules is loaded anyway.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import socket
import ssl
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final

_MODULES: Final = (
    "_strptime",  # dates in the answers of platforms
    "encodings.ascii",
    "encodings.idna",  # names of hosts
    "encodings.latin_1",
    "encodings.unicode_escape",  # names that do not print
    "dulwich.errors",
    "dulwich._pack",  # absent where dulwich came without extension modules
)
_NAME_SERVICES: Final = Path("/etc/nsswitch.conf")
_HOSTS_LINE: Final = re.compile(r"^\s*hosts:(.*)$", re.MULTILINE)


@cache
def load() -> None:
    """Load all of it; once in a process, and a forked one finds it loaded."""
    for module in _MODULES:
        with suppress(ImportError):
            import_module(module)
    # The first digest and the first context read OpenSSL's configuration.
    hashlib.sha1(usedforsecurity=False)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    socket.getaddrinfo("127.0.0.1", 443)
    # What ends a thread, and what looks names up.
    for library in ("libgcc_s.so.1", *(f"libnss_{service}.so.2" for service in _name_services())):
        with suppress(OSError):
            ctypes.CDLL(library)


def _name_services() -> list[str]:
    """Return the services that look up hosts on this machine: :manpage:`nsswitch.conf(5)`."""
    try:
        lines = _HOSTS_LINE.findall(_NAME_SERVICES.read_text(errors="replace"))
    except OSError:
        lines = []
    # What glibc uses by itself; before 2.34 these are libraries of their own.
    lines = lines or ["dns files"]
    return [word for line in lines for word in re.findall(r"[a-z0-9_]+", re.sub(r"\[[^]]*\]|#.*", "", line))]
