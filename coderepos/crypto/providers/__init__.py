"""Key management services (KMS) as key wrappers, one module per service; each needs the extra of its name.

A key is named by a URI: ``aws-kms://<arn>``, ``gcp-kms://projects/…/cryptoKeys/…``, ``azure-kv://<vault>/<key>`` or
``vault-transit://<mount>/<key>``. The kid of a wrapper is the URI of the key itself, never of an alias or a version.

To add a service, write a module with ``open_key(name)`` and a ``KeyWrapper`` whose calls go through ``kms_call``, and
add a number to ``WrapAlgorithm``, a row to :data:`SERVICES`, an extra to ``setup.cfg`` and a row to
``docs/encryption.md``; tests compare the four.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from coderepos.crypto.envelope import KeyWrapper
from coderepos.exceptions import EncryptionUnavailable

_SEGMENT: Final = r"[A-Za-z0-9][A-Za-z0-9_.\-]*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A key management service that this app can call."""

    scheme: str
    """Scheme of the URI of its keys."""

    key_name: re.Pattern[str]
    """What the rest of the URI looks like."""

    extra: str
    """Name of its module in this package, and of the extra that installs its client."""

    client: str
    """Module of the client library, which is imported when a key is needed and not before."""


SERVICES: Final = {
    service.scheme: service
    for service in (
        Service(
            scheme="aws-kms",
            key_name=re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:(?:key|alias)/[A-Za-z0-9/_-]+"),
            extra="aws",
            client="boto3",
        ),
        Service(
            scheme="gcp-kms",
            key_name=re.compile(rf"projects/[^/\s]+/locations/{_SEGMENT}/keyRings/{_SEGMENT}/cryptoKeys/{_SEGMENT}"),
            extra="gcp",
            client="google.cloud.kms_v1",
        ),
        Service(
            scheme="azure-kv",
            key_name=re.compile(rf"{_SEGMENT}(?::\d+)?/[A-Za-z0-9-]{{1,127}}"),
            extra="azure",
            client="azure.keyvault.keys",
        ),
        Service(
            scheme="vault-transit",
            key_name=re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*/{_SEGMENT}"),
            extra="vault",
            client="hvac",
        ),
    )
}
"""Every service, by the scheme of its keys."""


def split_key_id(key_id: str) -> tuple[str, str]:
    """Return scheme and name of a key's URI; a bare AWS ARN is one too.

    :raises ValueError: it is not the URI of a known service.
    """
    key_id = str(key_id)
    if key_id.startswith("arn:"):
        key_id = f"aws-kms://{key_id}"
    scheme, _, name = key_id.partition("://")
    if scheme not in SERVICES or not SERVICES[scheme].key_name.fullmatch(name):
        raise ValueError(f"A KMS key is one of {', '.join(f'{known}://…' for known in SERVICES)}, without a version.")
    return scheme, name


def missing_extra(key_id: str) -> str | None:
    """Return the extra that has to be installed before the key can be used; ``None`` where it is."""
    service = SERVICES[split_key_id(key_id)[0]]
    try:
        found = find_spec(service.client) is not None
    except ModuleNotFoundError:
        found = False
    return None if found else service.extra


def open_key(key_id: str) -> KeyWrapper:
    """Return the wrapper of a key; the client library is imported here, and not before.

    :raises ValueError: it is not the URI of a known service.
    :raises EncryptionUnavailable: the service is currently unavailable, or its extra is not installed.
    """
    scheme, name = split_key_id(key_id)
    if missing_extra(key_id):
        raise EncryptionUnavailable
    wrapper: KeyWrapper = import_module(f"{__name__}.{SERVICES[scheme].extra}").open_key(name)
    return wrapper
